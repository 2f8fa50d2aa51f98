"""The profile, and the vision encoder's file against it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from encoders import open_encoder
from encoders.files import rknn_targets
from vlm.doctor.case import Case, Line
from vlm.doctor.content import WORDS, kind_of
from vlm.errors import EncoderError

_TOPIC = "encoder"


def check_profile(case: Case) -> Iterator[Line]:
    """Which profile counts."""
    profile = case.profile
    if profile is None:
        yield Line("model", "error", case.missing["profile"])
        return
    found = f"{profile.name}: {profile.description}"
    if profile.unproven:
        found += f" Not proven: {', '.join(profile.unproven)}."
    yield Line("model", "fine", found)


def check_encoder(case: Case) -> Iterator[Line]:
    """What was given as the encoder: what it is, for which SoC, and whether its shape is the profile's."""
    if case.encoder is None:
        if "encoder" in case.missing:
            yield Line(_TOPIC, "error", case.missing["encoder"])
        return
    name = case.machine.shown(case.encoder)
    try:
        kind = kind_of(case.encoder)
    except OSError as exc:
        yield Line(_TOPIC, "error", f"{name} cannot be read: {exc.strerror}")
        return
    if kind == "rknn":
        yield _rknn_line(case, case.encoder, name)
    elif kind == "onnx":
        yield _onnx_line(case, case.encoder, name)
    elif kind in ("rkllm", "onnx directory"):
        advice = "give it as the language model (--llm), and a .rknn or .onnx as the encoder (--encoder)"
        yield Line(_TOPIC, "error", f"{name} is {WORDS[kind]}; it was given as the encoder", advice)
    else:
        yield Line(_TOPIC, "error", f"{name} is {WORDS[kind]}", "fetch the encoder anew, with `vlm pull` for one")


def _rknn_line(case: Case, path: Path, name: str) -> Line:
    soc = case.machine.soc
    if path.suffix.lower() != ".rknn":
        return Line(_TOPIC, "error", f"{name} is {WORDS['rknn']} by another name", "end its name in .rknn")
    if not case.on_board:
        return Line(_TOPIC, "error", f"{name} is {WORDS['rknn']}, and this machine has none", "use the .onnx here")
    targets = rknn_targets(path)
    found = f"{name}, built for {' and '.join(targets) or 'an SoC that it does not say'}"
    if soc and targets and soc.name not in targets:
        return Line(_TOPIC, "error", f"{found}; this is {soc.name}", f"take the file for {soc.name}, or convert anew")
    return Line(_TOPIC, "fine", f"{found}; its shape is compared with the profile when it is opened")


def _onnx_line(case: Case, path: Path, name: str) -> Line:
    if path.suffix.lower() != ".onnx":
        return Line(_TOPIC, "error", f"{name} is {WORDS['onnx']} by another name", "end its name in .onnx")
    if case.profile is None:
        return Line(_TOPIC, "fine", f"{name}: {WORDS['onnx']}")
    spec = case.profile.vision
    try:
        open_encoder(path, spec).close()
    except EncoderError as exc:
        return Line(
            _TOPIC, "error", str(exc).replace(str(case.machine.root), "") if not case.machine.here else str(exc)
        )
    shape = f"{spec.width_px} x {spec.height} pixels to {spec.tokens} x {spec.width * spec.outputs}"
    return Line(_TOPIC, "fine", f"{name}: {shape}, as the profile says")
