# ruff: noqa: RUF001 - the models' own tags hold characters that look like others
"""Four conversations, and the prompt that each built-in profile must make of them.

Where a model's published chat template could be read, these are what the template itself made of the conversations,
with `<image>` for what it writes for an image (tests/parity says which, and compares anew). The others follow the
authors' own code, as the profile's sources say.
"""

from __future__ import annotations

from vlm.prompt import IMAGE, Message

ONE = [Message("user", [IMAGE, "What is this?"])]
TWO = [Message("user", ["Compare ", IMAGE, " with ", IMAGE, "."])]
TURNS = [
    Message("user", [IMAGE, "What is this?"]),
    Message("assistant", "A red circle."),
    Message("user", "Is it large?"),
]
SYSTEM = [Message("system", "Be brief."), Message("user", "Hello")]
CONVERSATIONS = {"one image": ONE, "two images": TWO, "turns": TURNS, "system": SYSTEM}

CHATML = (
    "<|im_start|>user\n<image>What is this?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nCompare <image> with <image>.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\n<image>What is this?<|im_end|>\n<|im_start|>assistant\nA red circle.<|im_end|>\n"
    "<|im_start|>user\nIs it large?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
)
NUMBERED = (
    "<|im_start|>user\n<image>\nWhat is this?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nCompare Image-1: <image>\n with Image-2: <image>\n.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\n<image>\nWhat is this?<|im_end|>\n<|im_start|>assistant\nA red circle.<|im_end|>\n"
    "<|im_start|>user\nIs it large?<|im_end|>\n<|im_start|>assistant\n",
    CHATML[3],
)
PHI = (
    "<|user|>\n<image>\nWhat is this?<|end|><|assistant|>\n",
    "<|user|>\nCompare Image-1: <image>\n with Image-2: <image>\n.<|end|><|assistant|>\n",
    "<|user|>\n<image>\nWhat is this?<|end|><|assistant|>\nA red circle.<|end|>"
    "<|user|>\nIs it large?<|end|><|assistant|>\n",
    "<|system|>\nBe brief.<|end|><|user|>\nHello<|end|><|assistant|>\n",
)
JANUS = (
    "<|User|>: <image>\nWhat is this?\n\n<|Assistant|>:",
    "<|User|>: Compare \n<image>\n with \n<image>\n.\n\n<|Assistant|>:",
    "<|User|>: <image>\nWhat is this?\n\n<|Assistant|>: A red circle.<｜end▁of▁sentence｜>"
    "<|User|>: Is it large?\n\n<|Assistant|>:",
    "Be brief.\n\n<|User|>: Hello\n\n<|Assistant|>:",
)
MINICPM = (
    "<|im_start|>user\n<image_id>0</image_id><image>\nWhat is this?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nCompare <image_id>0</image_id><image>\n with <image_id>1</image_id><image>\n.<|im_end|>\n"
    "<|im_start|>assistant\n",
    "<|im_start|>user\n<image_id>0</image_id><image>\nWhat is this?<|im_end|>\n"
    "<|im_start|>assistant\nA red circle.<|im_end|>\n<|im_start|>user\nIs it large?<|im_end|>\n<|im_start|>assistant\n",
    CHATML[3],
)
SEEN = "<fake_token_around_image><global-img><image><fake_token_around_image>"
SMOLVLM = (
    f"<|im_start|>User:{SEEN}What is this?<end_of_utterance>\nAssistant:",
    f"<|im_start|>User: Compare {SEEN} with {SEEN}.<end_of_utterance>\nAssistant:",
    f"<|im_start|>User:{SEEN}What is this?<end_of_utterance>\nAssistant: A red circle.<end_of_utterance>\n"
    "User: Is it large?<end_of_utterance>\nAssistant:",
    "<|im_start|>System: Be brief.<end_of_utterance>\nUser: Hello<end_of_utterance>\nAssistant:",
)
OCR = (
    "<image>\nWhat is this?",
    "Compare <image>\n with <image>\n.",
    "<image>\nWhat is this?A red circle.Is it large?",
    "Be brief.Hello",
)
HELPFUL = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
SHUSHENG = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
WANXIANG = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
ASSISTANT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language.\n\n"
)
BEGIN = "<｜begin▁of▁sentence｜>"


def after(default: str, prompts: tuple[str, ...], *, first: str = "", ending: str = "") -> tuple[str, ...]:
    """The prompts with the model's own system message, where a conversation brings none, and its first token."""
    own = [first + default + prompt + ending for prompt in prompts[:-1]]
    return (*own, first + prompts[-1] + ending)


def without_breaks(prompts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(prompt.replace("<|im_end|>\n", "<|im_end|>") for prompt in prompts)


def plain_names(prompts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(prompt.replace("<|User|>", "User").replace("<|Assistant|>", "Assistant") for prompt in prompts)


INTERN2 = f"<|im_start|>system\n{SHUSHENG}<|im_end|>"
INTERN3 = after(f"<|im_start|>system\n{WANXIANG}<|im_end|>\n", NUMBERED)
SILENT = after("", CHATML, ending="<think>\n\n</think>\n\n")

GOLDEN: dict[str, tuple[str, ...]] = {
    "deepseek-ocr": after("", OCR, first=BEGIN),
    "demo": CHATML,
    "internvl2-1b": after(INTERN2, without_breaks(NUMBERED)),
    "internvl2-2b": after(INTERN2, without_breaks(NUMBERED), first="<s>"),
    "internvl2-4b": after(f"<|system|>\n{SHUSHENG}<|end|>", PHI, first="<s>"),
    "internvl3-1b": INTERN3,
    "internvl3-2b": INTERN3,
    "internvl3.5-1b": INTERN3,
    "internvl3.5-2b": INTERN3,
    "janus-1.3b": after(ASSISTANT, plain_names(JANUS), first=BEGIN),
    "janus-pro-1b": after(ASSISTANT, JANUS, first=BEGIN),
    "minicpm-v-2.6": after(HELPFUL, MINICPM),
    "qwen2-vl-2b": after(HELPFUL, CHATML),
    "qwen2-vl-7b": after(HELPFUL, CHATML),
    "qwen2.5-vl-3b": after(HELPFUL, CHATML),
    "qwen2.5-vl-7b": after(HELPFUL, CHATML),
    "qwen3-vl-2b": CHATML,
    "qwen3-vl-4b": CHATML,
    "qwen3.5-0.8b": SILENT,
    "qwen3.5-2b": SILENT,
    "smolvlm-256m": SMOLVLM,
    "smolvlm-500m": SMOLVLM,
}
"""By profile; the prompts in the order of CONVERSATIONS."""
