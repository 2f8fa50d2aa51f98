"""Train the demo model from nothing: `python samples/demo/train.py --work DIR`.

Draws its own pictures, needs no download, and runs on a CPU; two cores with bfloat16 matrix units take about an hour.
It can be stopped and started again: the newest checkpoint in DIR is taken up. The learning rate warms up, stays, and
falls to zero over the last `--cooldown` steps. The eyes learn alone for the first `--eyes-steps` steps.

Then `python samples/demo/export.py DIR samples/demo/model` writes what is shipped.
"""

from __future__ import annotations

import argparse
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from lessons import Lessons, make_pool, make_tokenizer
from net import Config, Demo
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional as F

POOL, POOL_SEED = 60_000, 1
TEST_POOL, TEST_SEED = 2_000, 2


def pictures_in(batch: dict[str, Any]) -> Tensor:
    """uint8 NHWC to floats in -1 to 1, NCHW."""
    return (batch["pictures"].permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def eyes_loss(model: Demo, features: Tensor, batch: dict[str, Any]) -> Tensor:
    """How well the eyes' own features tell what is in each cell, the background, and inside from outside."""
    grid = features.unflatten(1, (7, 7))[:, 1::2, 1::2].flatten(1, 2)
    cells, scene = model.eyes.cell_head(grid).float(), model.eyes.scene_head(features.mean(1)).float()
    there = batch["cells"][..., 0] == 1
    truth, guess = batch["cells"][there], cells[there]
    loss = F.binary_cross_entropy_with_logits(cells[..., 0], there.float()) * 4
    loss = loss + F.cross_entropy(guess[:, 1:6], truth[:, 1]) + F.cross_entropy(guess[:, 6:14], truth[:, 2])
    loss = loss + F.binary_cross_entropy_with_logits(guess[:, 14], truth[:, 3].float())
    inside = batch["scene"][:, 1] == 0
    loss = loss + F.cross_entropy(scene[inside, :6], batch["scene"][inside, 0])
    return loss + F.binary_cross_entropy_with_logits(scene[:, 6], batch["scene"][:, 1].float())


def eyes_right(model: Demo, features: Tensor, batch: dict[str, Any]) -> tuple[float, float]:
    """Shares of shapes and of colours that the eyes tell rightly."""
    guess = model.eyes.cell_head(features.unflatten(1, (7, 7))[:, 1::2, 1::2].flatten(1, 2))
    there = batch["cells"][..., 0] == 1
    truth, guess = batch["cells"][there], guess[there]
    right = (
        (guess[:, 1:6].argmax(1) == truth[:, 1]).float().mean(),
        (guess[:, 6:14].argmax(1) == truth[:, 2]).float().mean(),
    )
    return right[0].item(), right[1].item()


def words_in(model: Demo, features: Tensor, batch: dict[str, Any], pad: int) -> tuple[Tensor, Tensor]:
    """Logits at the places that are asked for, and which places these are."""
    ids, group = batch["ids"], batch["group"]
    embedded = model.words.embed(ids)
    shown = model.eyes.project(features).flatten(0, 1).to(embedded.dtype)
    embedded = embedded.masked_scatter((ids == pad)[..., None], shown)
    length = ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    seen = (group[:, None, :] == group[:, :, None]) | (group[:, None, :] == 0)
    mask = (causal & seen)[:, None]
    mask = torch.zeros(mask.shape, dtype=torch.bfloat16).masked_fill_(~mask, -1e4)
    hidden, _ = model.words(embedded.bfloat16(), batch["position"], mask)
    asked = batch["weight"][:, 1:] > 0
    return model.words.logits(hidden[:, :-1][asked]), asked


def step_loss(model: Demo, batch: dict[str, Any], pad: int, eyes_only: bool) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        features = model.eyes.features(pictures_in(batch))
        seeing = eyes_loss(model, features, batch)
        if eyes_only:
            return seeing
        logits, asked = words_in(model, features, batch, pad)
    weight = batch["weight"][:, 1:][asked]
    telling = F.cross_entropy(logits.float(), batch["ids"][:, 1:][asked], reduction="none")
    return (telling * weight).sum() / weight.sum() + 0.1 * seeing


def schedule(step: int, steps: int, cooldown: int) -> float:
    """Share of the full learning rate."""
    return min(1.0, (step + 1) / 100, max(0.0, (steps - step) / cooldown))


def optimizers(model: Demo, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between layers, AdamW for the rest."""
    blocks = [p for part in (model.eyes.blocks, model.words.blocks) for p in part.parameters() if p.ndim == 2]
    chosen = {id(p) for p in blocks}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(blocks, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


@torch.no_grad()
def examine(model: Demo, lessons: Lessons, pad: int, batches: int = 6) -> str:
    """Share of answers that greedy decoding would give to the letter, by kind; on held-out scenes and wordings."""
    right: Counter[str] = Counter()
    asked_of: Counter[str] = Counter()
    model.eyes.eval()  # the words stay in training mode: it only chooses the attention kernel
    stream, seen = iter(lessons), []
    for _ in range(batches):
        batch: Any = next(stream)
        with torch.autocast("cpu", torch.bfloat16):
            features = model.eyes.features(pictures_in(batch))
            seen.append(eyes_right(model, features, batch))
            logits, asked = words_in(model, features, batch, pad)
        hit = torch.zeros(asked.shape, dtype=torch.bool)
        hit[asked] = logits.argmax(-1) == batch["ids"][:, 1:][asked]
        for row, spans in enumerate(batch["spans"]):
            for kind, first, last in spans:
                asked_of[kind] += 1
                right[kind] += bool(hit[row, first - 1 : last - 1].all())
    model.eyes.train()
    shapes, colours = (sum(s[i] for s in seen) / len(seen) for i in (0, 1))
    told = "  ".join(f"{kind} {right[kind] / asked_of[kind]:.3f}" for kind in sorted(asked_of))
    return f"eyes: shapes {shapes:.3f} colours {colours:.3f} | all {right.total() / asked_of.total():.4f} | {told}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for pictures and checkpoints")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--eyes-steps", type=int, default=1000)
    parser.add_argument("--cooldown", type=int, default=900)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    pad = tokenizer.token_to_id("<image_pad>")
    model = Demo(Config(vocab=tokenizer.get_vocab_size())).to(memory_format=torch.channels_last)
    average = deepcopy(model)
    tools = optimizers(model, args.rate)
    checkpoint, start = args.work / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        for tool, state in zip(tools, saved["tools"], strict=True):
            tool.load_state_dict(state)
        start = saved["step"]
    make_pool(args.work, "train", POOL, POOL_SEED, False)
    make_pool(args.work, "test", TEST_POOL, TEST_SEED, True)
    lessons = Lessons(args.work, "train", POOL, POOL_SEED + start, args.batch)
    test = Lessons(args.work, "test", TEST_POOL, TEST_SEED, args.batch, held_out=True)
    stream = iter(torch.utils.data.DataLoader(lessons, batch_size=None, num_workers=1, prefetch_factor=4))
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters, from step {start}", flush=True)

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        bar = progress.add_task("training", total=args.steps, completed=start)
        for step in range(start, args.steps):
            share = schedule(step, args.steps, args.cooldown)
            for tool in tools:
                for group in tool.param_groups:
                    group["lr"] = args.rate * share
            loss = step_loss(model, next(stream), pad, step < args.eyes_steps)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for tool in tools:
                tool.step()
                tool.zero_grad(set_to_none=True)
            keep = min(0.995, (step + 1) / (step + 10))
            with torch.no_grad():
                for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                    mean.lerp_(value, 1 - keep) if mean.is_floating_point() else mean.copy_(value)
            progress.update(bar, advance=1, description=f"loss {loss.item():.3f}")
            if (step + 1) % args.every == 0 or step + 1 == args.steps:
                progress.print(f"step {step + 1} loss {loss.item():.4f} {examine(average, test, pad)}", soft_wrap=True)
                state = {"model": model.state_dict(), "average": average.state_dict(), "step": step + 1}
                torch.save({**state, "tools": [tool.state_dict() for tool in tools]}, checkpoint.with_suffix(".new"))
                checkpoint.with_suffix(".new").replace(checkpoint)


if __name__ == "__main__":
    main()
