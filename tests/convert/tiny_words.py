"""A tokenizer of whole words and a profile for the tiny models of authors.py: every token of an answer can be read."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

VOCABULARY = 300
CONTENT, START, END = 290, 292, 293
TAGS = {CONTENT: "<pad>", START: "<img>", END: "</img>"}
SIZES = {"qwen3_vl": 128, "smolvlm": 128, "idefics3": 128, "janus": 96}
TEMPLATE = (
    "{%- for message in messages -%}{{- message.role ~ ' ' -}}{%- for part in message.content -%}"
    "{{- '<image>' if part.type == 'image' else part.text -}}{{- ' ' -}}{%- endfor -%}{%- endfor -%}"
    "{{- 'assistant ' -}}"
)


def side(kind: str) -> int:
    return SIZES.get(kind, 112)


def tokenizer() -> Tokenizer:
    known = ["unknown", "user", "assistant", "system", "what", "is", "this", "and", "that"]
    words = {word: number for number, word in enumerate(known)}
    words |= {f"w{number}": number for number in range(len(known), VOCABULARY) if number not in TAGS}
    words |= {tag: number for number, tag in TAGS.items()}
    made = Tokenizer(models.WordLevel(words, unk_token="unknown"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([AddedToken(tag, special=True, normalized=False) for tag in TAGS.values()])
    return made


def profile(kind: str, **changes: int) -> str:
    """The text of a profile; changes: keys of [encoder]."""
    tokens = 36 if kind == "janus" else 16
    encoder = {"height": side(kind), "width_px": side(kind), "tokens": tokens, "width": 64}
    encoder |= {"outputs": 4 if kind == "qwen3_vl" else 1} | changes
    keys = "\n".join(f"{name} = {value}" for name, value in encoder.items())
    return f"""
name = "tiny"
family = "tiny"
description = "A tiny {kind} with random weights."
min_release = "1.1.4"
control = []
chat_template = {json.dumps(TEMPLATE)}
max_context_len = 1024
max_new_tokens = 32

[encoder]
{keys}
mean = [0.48, 0.46, 0.41]
std = [0.27, 0.26, 0.28]

[tags]
start = "<img>"
end = "</img>"
content = "<pad>"

[files.host]
encoder = ["vision_encoder.onnx"]
llm = ["."]
"""


def write(kind: str, model: Path, out: Path) -> None:
    """The tokenizer beside the authors' model, and the profile beside the files to come."""
    tokenizer().save(str(model / "tokenizer.json"))
    out.mkdir(parents=True, exist_ok=True)
    (out / "profile.toml").write_text(profile(kind))
