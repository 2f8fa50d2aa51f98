"""Measure the demo model through the front door: `python samples/demo/evaluate.py [--cases 1000] [--seed 7]`.

Every case shows a combination of objects that training never showed, drawn in a style, size and compression of its own,
and asks in a wording that training never used; an answer counts only if it is right to the letter. A tenth of the cases
is outside the model's world and must be declined.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np
from questions import DECLINE, NO_PICTURE, PAIR_KINDS, Asker
from rich.console import Console
from rich.progress import track
from rich.table import Table
from world import Pixels, draw, draw_outside, random_scene

import vlm

FACTS = ("list_shapes", "count", "colour", "shape", "where", "what_at", "exists", "background", "size")
SHARES = {"description": 0.2, "two pictures": 0.15, "outside": 0.1, "follow-up": 0.05, "no picture": 0.05}

Case = tuple[str, str, list[bytes], list[tuple[str, str]]]  # group, kind, pictures, turns


def file_bytes(pixels: Pixels, rng: np.random.Generator) -> bytes:
    """A picture as the bytes of a file, JPEG or PNG."""
    if rng.random() < 0.5:
        return bytes(cv2.imencode(".png", pixels[..., ::-1])[1])
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 101))]
    return bytes(cv2.imencode(".jpg", pixels[..., ::-1], quality)[1])


def make_cases(count: int, seed: int) -> Iterator[Case]:
    """Draw the cases: a fixed share of each group, the rest single facts."""
    rng = np.random.default_rng(seed)
    ask = Asker(rng, held_out=True, noise=False)
    groups = [group for group, share in SHARES.items() for _ in range(round(count * share))]
    groups += ["single fact"] * (count - len(groups))
    for number, group in enumerate(groups):
        scene, second = random_scene(rng, held_out=True), random_scene(rng, held_out=True)
        pictures = [file_bytes(draw(scene, rng), rng)]
        kind, turns = group, []
        while not turns:
            if group == "description":
                turns = [ask.describe(scene)]
            elif group == "two pictures":
                kind = PAIR_KINDS[number % len(PAIR_KINDS)]
                turns = [getattr(ask, kind)(scene, second)]
                pictures.append(file_bytes(draw(second, rng), rng))
            elif group == "outside":
                turns, pictures = [(ask.any_about(scene)[0], DECLINE)], [file_bytes(draw_outside(rng), rng)]
            elif group == "no picture":
                turns, pictures = [(ask.any_about(scene)[0], NO_PICTURE)], []
            elif group == "follow-up":
                turns = ask.follow_up(scene)
                scene = random_scene(rng, held_out=True) if not turns else scene
                pictures = pictures if turns else [file_bytes(draw(scene, rng), rng)]
            else:
                kind = FACTS[int(rng.integers(len(FACTS)))]
                turn = getattr(ask, kind)(scene)
                turns = [turn] if turn else []
        yield group, kind, pictures, [(ask.typed(question), answer) for question, answer in turns]


def ask_model(model: vlm.VLM, pictures: list[bytes], turns: list[tuple[str, str]]) -> list[str]:
    """The model's answers; a later turn sees the model's own earlier answers."""
    messages: list[dict[str, object]] = []
    answers = []
    for number, (question, _) in enumerate(turns):
        parts: list[object] = [] if number else [{"type": "image", "image": picture} for picture in pictures]
        messages.append({"role": "user", "content": [*parts, {"type": "text", "text": question}]})
        answers.append(model.chat(messages).text)
        messages.append({"role": "assistant", "content": answers[-1]})
    return answers


@dataclass
class Score:
    """What was asked and what was answered rightly, by group and kind; declined: of the cases inside the world."""

    right: Counter[tuple[str, str]] = field(default_factory=Counter)
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    declined: int = 0
    wrong: list[str] = field(default_factory=list)

    def share(self, group: str) -> float:
        """Share of a group's cases that were answered rightly."""
        keys = [key for key in self.asked if key[0] == group]
        return sum(self.right[key] for key in keys) / sum(self.asked[key] for key in keys)

    @property
    def inside(self) -> int:
        """Cases that show something of the model's world."""
        return sum(count for (group, _), count in self.asked.items() if group not in ("outside", "no picture"))


def measure(model: vlm.VLM, cases: Iterable[Case]) -> Score:
    """Ask every case."""
    score = Score()
    for group, kind, pictures, turns in cases:
        answers = ask_model(model, pictures, turns)
        truths = [truth for _, truth in turns]
        score.asked[group, kind] += 1
        score.right[group, kind] += answers == truths
        if answers != truths:
            questions = [question for question, _ in turns]
            score.wrong.append(f"{group} / {kind}: {questions}\n  said  {answers}\n  truth {truths}")
        if group not in ("outside", "no picture"):
            score.declined += DECLINE in answers
    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--wrong", type=int, default=0, metavar="N", help="show N wrong answers")
    args = parser.parse_args()
    console = Console(stderr=True)
    with vlm.load(args.model) as model:
        cases = list(make_cases(args.cases, args.seed))
        score = measure(model, track(cases, "asking", console=console))
    table = Table("group", "kind", "right", "of", "share")
    for group in dict.fromkeys(group for group, _ in score.asked):
        keys = sorted(key for key in score.asked if key[0] == group)
        right, asked = sum(score.right[key] for key in keys), sum(score.asked[key] for key in keys)
        table.add_row(group, "", str(right), str(asked), f"{score.share(group):.1%}", style="bold")
        for key in keys if len(keys) > 1 else ():
            share = score.right[key] / score.asked[key]
            table.add_row("", key[1], str(score.right[key]), str(score.asked[key]), f"{share:.1%}")
    declined = f"{score.declined / score.inside:.1%}"
    table.add_row("inside, yet declined", "", str(score.declined), str(score.inside), declined, style="bold")
    Console().print(table)
    print("\n".join(score.wrong[: args.wrong]))


if __name__ == "__main__":
    main()
