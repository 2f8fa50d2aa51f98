"""Encode a picture once, ask about it several times, and print each answer as it is told."""

from pathlib import Path

import vlm

PICTURES = Path(__file__).parent / "pictures"

with vlm.load("demo") as model:
    picture = model.encode(PICTURES / "five-shapes.png")
    for question in ("Describe the picture.", "Where is the blue star?", "What is at the top right?"):
        print(f"{question}\n  ", end="")
        with model.stream(picture, question) as stream:
            for piece in stream:
                print(piece, end="", flush=True)
        print(f"  ({stream.answer.tokens} tokens, the first after {stream.answer.ttft_ms:.0f} ms)")
