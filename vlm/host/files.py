"""Where the parts of a host model lie: a directory in the Hugging Face ONNX layout.

    config.json             sizes, end-of-sequence ids
    generation_config.json  more end-of-sequence ids, if it is there
    tokenizer.json          for the `tokenizers` library
    tokenizer_config.json   chat_template, bos_token, eos_token, if it is there; so is chat_template.jinja
    embed_tokens.onnx       token ids -> embeddings
    decoder_model_merged.onnx or decoder_model.onnx (or model.onnx, for a model that takes token ids itself)

The .onnx files lie beside config.json or in onnx/ below it, and may have one of SUFFIXES before `.onnx`. External data
(`NAME.onnx_data`) lies beside its .onnx file, where ONNX Runtime looks for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm.errors import ModelLoadError

SUFFIXES: tuple[str, ...] = ("", "_fp16", "_quantized", "_int8", "_uint8", "_q4", "_q4f16", "_bnb4")
"""Which file is taken when a directory holds several: the more exact first. Naming a .onnx file chooses another."""

DECODERS: tuple[str, ...] = ("decoder_model_merged", "decoder_model", "model")
EMBEDDERS: tuple[str, ...] = ("embed_tokens",)


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model, all of them there. embedder is None when the directory has none."""

    directory: Path
    decoder: Path
    embedder: Path | None
    tokenizer: Path
    config: dict[str, Any]
    generation_config: dict[str, Any]
    tokenizer_config: dict[str, Any]
    chat_template: str | None


@dataclass(frozen=True)
class ModelConfig:
    """What config.json says, as far as the host needs it.

    hidden: width of an embedding. kv_heads, head_dim: shape of the cache, for exports that leave it open. limit: the
    longest context, in tokens. eos: ids that end an answer. image_tokens: embeddings per image, where the model says.
    """

    hidden: int | None
    layers: int | None
    kv_heads: int | None
    head_dim: int | None
    limit: int
    eos: frozenset[int]
    image_tokens: int | None


def find_model(path: Path) -> ModelFiles:
    """Find a model's files. `path` is its directory, or one of its decoder files, which is then the one used.

    Raises ModelLoadError, naming what is missing and where it was looked for.
    """
    if path.is_file() and path.suffix == ".onnx":
        directory = path.parent.parent if path.parent.name == "onnx" else path.parent
        chosen: Path | None = path
    elif path.is_dir():
        directory, chosen = path, None
    elif path.exists():
        raise ModelLoadError(
            f"{path} is not a model for a PC: expected a directory with config.json and ONNX files, or a .onnx file of "
            "one. A .rkllm file runs on a board only."
        )
    else:
        raise ModelLoadError(f"There is no model at {path}; give a directory that holds config.json and ONNX files.")
    decoder = chosen or _find_onnx(directory, DECODERS, "")
    if decoder is None:
        raise ModelLoadError(
            f"No decoder in {directory}: expected {' or '.join(f'{n}.onnx' for n in DECODERS)}, there or in onnx/, "
            f"with one of the suffixes {', '.join(s for s in SUFFIXES if s)} or none."
        )
    return ModelFiles(
        directory=directory,
        decoder=decoder,
        embedder=_find_onnx(directory, EMBEDDERS, _suffix(decoder)),
        tokenizer=_require(directory / "tokenizer.json"),
        config=_read_json(_require(directory / "config.json")),
        generation_config=_read_optional(directory / "generation_config.json"),
        tokenizer_config=_read_optional(directory / "tokenizer_config.json"),
        chat_template=_chat_template(directory),
    )


def read_config(files: ModelFiles) -> ModelConfig:
    """Take the numbers out of config.json (its `text_config`, where a model has one) and generation_config.json.

    Raises ModelLoadError when a number is not a number, or the longest context is not said.
    """
    outer = files.config
    nested = [outer.get(key) for key in ("text_config", "llm_config", "language_config")]
    text: dict[str, Any] = next((section for section in nested if isinstance(section, dict)), {})

    def number(*names: str) -> int | None:
        for section in (text, outer):
            for name in names:
                value = section.get(name)
                if value is None:
                    continue
                if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                    raise ModelLoadError(f"{name} in {files.directory / 'config.json'} is {value!r}, expected a count.")
                return value
        return None

    limit = number("max_position_embeddings", "n_positions", "max_sequence_length")
    if limit is None:
        raise ModelLoadError(f"{files.directory / 'config.json'} lacks max_position_embeddings, the longest context.")
    hidden, heads = number("hidden_size", "n_embd"), number("num_attention_heads", "n_head")
    head_dim = number("head_dim") or (hidden // heads if hidden and heads else None)
    return ModelConfig(
        hidden=hidden,
        layers=number("num_hidden_layers", "n_layer"),
        kv_heads=number("num_key_value_heads") or heads,
        head_dim=head_dim,
        limit=limit,
        eos=frozenset().union(*(_ids(s.get("eos_token_id")) for s in (text, outer, files.generation_config))),
        image_tokens=number("image_seq_length", "mm_tokens_per_image"),
    )


def _ids(value: object) -> frozenset[int]:
    values = value if isinstance(value, list) else [value]
    return frozenset(v for v in values if isinstance(v, int) and not isinstance(v, bool))


def _suffix(decoder: Path) -> str:
    for name in DECODERS:
        rest = decoder.stem.removeprefix(name)
        if rest != decoder.stem and rest in SUFFIXES:
            return rest
    return ""


def _find_onnx(directory: Path, names: tuple[str, ...], first: str) -> Path | None:
    """The first file there is: by suffix (`first` before the others), then by name, then flat before onnx/."""
    for suffix in (first, *(s for s in SUFFIXES if s != first)):
        for name in names:
            for folder in (directory, directory / "onnx"):
                path = folder / f"{name}{suffix}.onnx"
                if path.is_file():
                    return path
    return None


def _require(path: Path) -> Path:
    if not path.is_file():
        raise ModelLoadError(f"The model lacks {path.name}: expected it at {path}.")
    return path


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ModelLoadError(f"{path} cannot be read as JSON: {exc}.") from exc
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path} holds a {type(value).__name__}, expected a JSON object.")
    return value


def _read_optional(path: Path) -> dict[str, Any]:
    return _read_json(path) if path.is_file() else {}


def _chat_template(directory: Path) -> str | None:
    """The model's own chat template: chat_template.jinja, else what tokenizer_config.json holds."""
    separate = directory / "chat_template.jinja"
    if separate.is_file():
        return separate.read_text(encoding="utf-8")
    template = _read_optional(directory / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several templates, each with a name
        template = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}.get("default")
    return template if isinstance(template, str) else None
