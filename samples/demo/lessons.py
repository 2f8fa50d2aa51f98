"""Training data: drawn pictures, and conversations about them packed into rows of tokens.

Pictures are drawn once into a pool on disk and met many times, each time with other questions and half the time
mirrored. A row shows one or two pictures and then holds several independent conversations, which see the pictures and
themselves but not one another (`group`), so that a picture is encoded once for many questions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing import Pool
from pathlib import Path

import cv2
import numpy as np
import torch
from net import TOKENS
from numpy.typing import NDArray
from questions import DECLINE, NO_PICTURE, PAIR_KINDS, SINGLE_KINDS, THANKS, Asker, Turn, vocabulary
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from world import BACKGROUNDS, COLOURS, OUTSIDE, SHAPES, Scene, Thing, draw, draw_outside, random_scene

SIDE = 112
IM_START, IM_END, IMG, IMG_END, PAD = "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<image_pad>"
SPECIAL = (IM_END, IM_START, IMG, IMG_END, PAD)
IMAGES = IMG + PAD * TOKENS + IMG_END
OUTSIDE_SHARE = 0.08
WEIGHT = {"count": 6.0, "exists": 1.5, "both": 2.0, "more": 2.0}  # of a kind's answers in the loss; 1 for the rest
OFTEN = ("count", "count", "count", "count", "exists", "where")  # asked more often than the rest
LENGTH = 320  # tokens of a row


def make_tokenizer() -> Tokenizer:
    """Byte-level BPE over the words of the world; any other text falls to pieces, down to bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=1024, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(vocabulary(), trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    return tokenizer


# --- pictures --------------------------------------------------------------------------------------------------------


def fit(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Stretch to the encoder's square, by one of several resamplers so that none is learnt by heart."""
    shrinks = min(pixels.shape[:2]) >= SIDE
    ways = (cv2.INTER_AREA,) if shrinks else (cv2.INTER_LINEAR, cv2.INTER_CUBIC)
    return cv2.resize(pixels, (SIDE, SIDE), interpolation=ways[int(rng.integers(len(ways)))])  # type: ignore[return-value]


def _draw_one(job: tuple[int, bool]) -> tuple[Scene, NDArray[np.uint8]]:
    seed, held_out = job
    cv2.setNumThreads(1)
    rng = np.random.default_rng(seed)
    if rng.random() < OUTSIDE_SHARE:
        return OUTSIDE, fit(draw_outside(rng), rng)
    scene = random_scene(rng, held_out)
    return scene, fit(draw(scene, rng), rng)


def make_pool(folder: Path, name: str, count: int, seed: int, held_out: bool) -> tuple[list[Scene], NDArray[np.uint8]]:
    """Draw `count` pictures, or find them drawn. Returns scenes and uint8 pixels (count, 112, 112, 3) on disk."""
    pixels_file, scenes_file = folder / f"{name}.u8", folder / f"{name}.jsonl"
    shape = (count, SIDE, SIDE, 3)
    if not scenes_file.exists():
        pixels = np.memmap(pixels_file, np.uint8, "w+", shape=shape)
        jobs = [(seed * 10_000_000 + index, held_out) for index in range(count)]
        scenes = []
        with Pool() as workers:
            for index, (scene, picture) in enumerate(workers.imap(_draw_one, jobs, chunksize=64)):
                pixels[index] = picture
                scenes.append(scene)
        scenes_file.write_text("".join(json.dumps(asdict(scene)) + "\n" for scene in scenes))
    read = (json.loads(line) for line in scenes_file.read_text().splitlines())
    scenes = [Scene(tuple(Thing(**t) for t in s["things"]), s["background"], s["aspect"]) for s in read]
    return scenes, np.memmap(pixels_file, np.uint8, "r", shape=shape)


# --- rows ------------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One packed row. group: 0 for what all see, else the conversation's number; weight: of a token in the loss."""

    ids: list[int]
    group: list[int]
    position: list[int]
    weight: list[float]
    spans: list[tuple[str, int, int]]  # kind, first and last + 1 index of an answer
    shared: int
    talks: int = 0


class Packer:
    """Builds rows of about LENGTH tokens from scenes."""

    def __init__(self, tokenizer: Tokenizer, asker: Asker) -> None:
        self.tokenizer, self.asker = tokenizer, asker
        self.known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids  # type: ignore[no-any-return]

    def answer(self, text: str) -> list[int]:
        if text not in self.known and len(self.known) < 200_000:
            self.known[text] = self.encode(text + IM_END)
        return self.known.get(text) or self.encode(text + IM_END)

    def start(self, images: str) -> Row:
        """A row that holds only what all its conversations see: now and then a system message, and the pictures."""
        system = self.asker.rng.random() < 0.03
        opening = f"{IM_START}system\nYou are a helpful assistant.{IM_END}\n" if system else ""
        ids = self.encode(f"{opening}{IM_START}user\n{images}")
        return Row(ids, [0] * len(ids), list(range(len(ids))), [0.0] * len(ids), [], len(ids))

    def add(self, row: Row, kind: str, turns: list[Turn], images: str = "") -> bool:
        """Add a conversation; images: for pictures that come after the first question. False: the row is full."""
        parts = []
        for index, (question, answer) in enumerate(turns):
            start = f"\n{IM_START}user\n" if index else ""
            asked = self.asker.typed(question) + ("" if index else images)
            parts.append((self.encode(f"{start}{asked}{IM_END}\n{IM_START}assistant\n"), self.answer(answer)))
        if row.talks and len(row.ids) + sum(len(asked) + len(told) for asked, told in parts) > LENGTH:
            return False
        row.talks += 1
        place = row.shared
        for asked, told in parts:
            first = len(row.ids) + len(asked)
            row.spans.append((kind, first, first + len(told)))
            row.ids += asked + told
            row.weight += [0.0] * len(asked) + [WEIGHT.get(kind, 1.0) / len(told) ** 0.5] * len(told)
            length = len(asked) + len(told)
            row.position += range(place, place + length)
            row.group += [row.talks] * length
            place += length
        return True

    def about_one(self, scene: Scene) -> Row:
        """Conversations about one picture: mostly single questions, some with follow-ups."""
        late = self.asker.rng.random() < 0.06
        row = self.start("" if late else IMAGES)
        while self.add(row, *self.some_talk(scene, first=not row.talks), images=IMAGES if late else "") and not late:
            pass
        return row

    def some_talk(self, scene: Scene, first: bool) -> tuple[str, list[Turn]]:
        ask, rng = self.asker, self.asker.rng
        if not scene.things:
            return "outside", [(ask.any_about(random_scene(rng))[0], DECLINE)]
        if rng.random() < 0.04:
            return "other", [(ask.wording("OTHER"), DECLINE)]
        if rng.random() < 0.14:
            return "follow", self.conversation(scene)
        while True:
            kinds = (*SINGLE_KINDS, *OFTEN)
            kind = "describe" if first and rng.random() < 0.4 else kinds[int(rng.integers(len(kinds)))]
            turn = getattr(ask, kind)(scene)
            if turn:
                return kind, [turn]

    def conversation(self, scene: Scene) -> list[Turn]:
        """Several turns about one scene."""
        ask, rng = self.asker, self.asker.rng
        turns = [ask.any_about(scene) for _ in range(int(rng.integers(1, 3)))]
        turns += ask.follow_up(scene)
        if rng.random() < 0.15:
            turns.append((ask.wording("THANKS"), THANKS))
        return turns

    def about_two(self, one: Scene, two: Scene) -> Row:
        late = self.asker.rng.random() < 0.06
        row = self.start("" if late else IMAGES * 2)
        while True:
            kinds = (*PAIR_KINDS, "both")
            kind = kinds[int(self.asker.rng.integers(len(kinds)))]
            turn = getattr(self.asker, kind)(one, two)
            if not self.add(row, kind, [turn], images=IMAGES * 2 if late else "") or late:
                return row

    def about_none(self) -> Row:
        """Conversations without a picture."""
        row = self.start("")
        while True:
            blind = self.asker.rng.random() < 0.4
            question = self.asker.any_about(random_scene(self.asker.rng))[0]
            turn = (question, NO_PICTURE) if blind else self.asker.without_picture()
            if not self.add(row, "blind" if blind else "talk", [turn]):
                return row


# --- batches ---------------------------------------------------------------------------------------------------------


def labels(scene: Scene) -> tuple[list[int], NDArray[np.int64]]:
    """What the eyes are asked while they learn: [background, outside]; [there, shape, colour, large] of nine cells."""
    cells = np.zeros((9, 4), np.int64)
    for t in scene.things:
        cells[t.row * 3 + t.column] = 1, SHAPES.index(t.shape), list(COLOURS).index(t.colour), t.size == "large"
    return [list(BACKGROUNDS).index(scene.background) if scene.things else 0, int(not scene.things)], cells


def collate(rows: list[Row], pictures: list[NDArray[np.uint8]], scenes: list[Scene]) -> dict[str, object]:
    """Rows to tensors, padded to the longest."""
    length = (max(len(row.ids) for row in rows) + 31) // 32 * 32
    ids, group = np.zeros((len(rows), length), np.int64), np.full((len(rows), length), -1, np.int64)
    position, weight = np.zeros_like(ids), np.zeros((len(rows), length), np.float32)
    for index, row in enumerate(rows):
        size = len(row.ids)
        ids[index, :size], group[index, :size] = row.ids, row.group
        position[index, :size], weight[index, :size] = row.position, row.weight
    told = [labels(scene) for scene in scenes]
    shown = np.stack(pictures) if pictures else np.zeros((0, SIDE, SIDE, 3), np.uint8)
    return {
        "ids": torch.from_numpy(ids), "group": torch.from_numpy(group), "position": torch.from_numpy(position),
        "weight": torch.from_numpy(weight), "spans": [row.spans for row in rows],
        "pictures": torch.from_numpy(shown),
        "scene": torch.tensor([t[0] for t in told]), "cells": torch.from_numpy(np.stack([t[1] for t in told])),
    }  # fmt: skip


class Lessons(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """An endless stream of batches, the same for the same seed."""

    def __init__(self, folder: Path, name: str, count: int, seed: int, batch: int, held_out: bool = False) -> None:
        self.folder, self.name, self.count, self.seed, self.batch, self.held_out = (
            folder,
            name,
            count,
            seed,
            batch,
            held_out,
        )

    def __iter__(self) -> Iterator[dict[str, object]]:
        scenes, pixels = make_pool(self.folder, self.name, self.count, self.seed, self.held_out)
        rng = np.random.default_rng(self.seed)
        packer = Packer(make_tokenizer(), Asker(rng, held_out=self.held_out, noise=not self.held_out))
        inside = [index for index, scene in enumerate(scenes) if scene.things]
        step = 0
        while True:
            step += 1
            rows: list[Row] = []
            shown: list[NDArray[np.uint8]] = []
            about: list[Scene] = []

            def show(index: int, shown: list[NDArray[np.uint8]] = shown, about: list[Scene] = about) -> Scene:
                mirrored = bool(rng.random() < 0.5)
                scene = scenes[index].flipped() if mirrored else scenes[index]
                shown.append(pixels[index][:, ::-1] if mirrored else pixels[index])
                about.append(scene)
                return scene

            if step % 3 == 0:
                for _ in range(self.batch * 5 // 8):
                    one, two = rng.choice(inside, 2)
                    rows.append(packer.about_two(show(one), show(two)))
            else:
                rows += [packer.about_none() for _ in range(self.batch // 24)]
                while len(rows) < self.batch:
                    rows.append(packer.about_one(show(int(rng.integers(len(scenes))))))
            yield collate(rows, shown, about)
