"""What must hold of every built-in profile: each of its keys broken in turn, and encoders that are not its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from profile_files import BUILT_IN, KEYS, problem, table_of, toml, wrong_value

from encoders import open_encoder
from encoders.errors import EncoderMismatchError
from vlm.profile import load_profile


def broken(table: dict[str, Any], dotted: str, value: object) -> str:
    """The profile with one key set to `value`, or left out (None)."""
    table = copy.deepcopy(table)
    *parents, leaf = dotted.split(".")
    place = table
    for parent in parents:
        place = place.setdefault(parent, {})
    if value is None:
        del place[leaf]
    else:
        place[leaf] = value
    return toml(table)


def holds(table: dict[str, Any], dotted: str) -> bool:
    for step in dotted.split("."):
        if step not in table:
            return False
        table = table[step]
    return True


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_key_broken_in_turn_is_named(name: str) -> None:
    table = table_of(name)
    for key in KEYS:
        assert f"{key.name}: expected" in problem(broken(table, key.name, wrong_value(key)))
        assert f"{key.name}_: unknown key" in problem(broken(table, key.name + "_", 1))
        if key.default == "required" and holds(table, key.name):
            assert f"{key.name}: missing" in problem(broken(table, key.name, None))


def encoder_file(
    path: Path, *, size: tuple[int, int], tokens: int, width: int, outputs: int, flat: bool = False
) -> Path:
    """An encoder that gives zeros of its shape, a few hundred bytes whatever the model. flat: without a batch."""
    names = [f"image{index}" for index in range(outputs)]
    given = [tokens, width] if flat else [1, tokens, width]
    shape = numpy_helper.from_array(np.array(given), "shape")
    nodes = [helper.make_node("ConstantOfShape", ["shape"], [name]) for name in names]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, *size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, given) for name in names],
        [shape],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("name", BUILT_IN)
def test_an_encoder_of_another_model_is_refused_with_both_values(tmp_path: Path, name: str) -> None:
    spec = load_profile(name).vision
    facts = {"size": (spec.height, spec.width_px), "tokens": spec.tokens, "width": spec.width, "outputs": spec.outputs}
    for flat in (False, True):  # DeepSeek-OCR's export gives no batch
        with open_encoder(encoder_file(tmp_path / f"own{flat}.onnx", **facts, flat=flat), spec) as own:
            blank = np.zeros((1, spec.height, spec.width_px, 3), np.uint8)
            assert own.encode(blank, "").data.shape == (1, spec.tokens, spec.width * spec.outputs)
    said = "the profile says {}, the file has {}"
    others = {
        "tokens": ({"tokens": spec.tokens + 1}, said.format(spec.tokens, spec.tokens + 1)),
        "width": ({"width": 2 * spec.width}, said.format(spec.width, 2 * spec.width)),
        "outputs": ({"outputs": spec.outputs + 1}, said.format(spec.outputs, spec.outputs + 1)),
        "size": (
            {"size": (spec.height, 2 * spec.width_px)},
            said.format(f"1 x 3 x {spec.height} x {spec.width_px}", f"1 x 3 x {spec.height} x {2 * spec.width_px}"),
        ),
    }
    for what, (changes, words) in others.items():
        file = encoder_file(tmp_path / f"{what}.onnx", **(facts | changes))
        with pytest.raises(EncoderMismatchError) as caught:
            open_encoder(file, spec)
        assert words in str(caught.value)


def test_what_is_unproven_has_been_looked_for() -> None:
    """A key may have no proof, but then its source says where the value comes from instead."""
    for name in BUILT_IN:
        profile = load_profile(name)
        assert not set(profile.unproven) - set(profile.sources), name
