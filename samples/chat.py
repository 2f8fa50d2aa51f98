"""A conversation about a picture: every question is sent with all that was said before."""

from pathlib import Path
from typing import Any

import vlm

PICTURES = Path(__file__).parent / "pictures"

with vlm.load("demo") as model:
    picture = model.encode(PICTURES / "two-hearts.png")
    messages: list[dict[str, Any]] = []
    for question in ("Where is the purple heart?", "And how big is it?", "What colour is the background?"):
        shown = [] if messages else [{"type": "image", "image": picture}]
        messages.append({"role": "user", "content": [*shown, {"type": "text", "text": question}]})
        answer = model.chat(messages)
        messages.append({"role": "assistant", "content": answer.text})
        print(f"> {question}\n{answer}")
