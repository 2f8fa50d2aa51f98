"""Images in a prompt: where their rows go, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from numpy.typing import NDArray
from rig import Reference, Rig
from tiny_model import IMG, IMG_END

from vlm.rkllm.abi import RELEASES, CallState, InferMode

SEVERAL = [r for r in RELEASES if r not in ("1.1.4", "1.2.0")]


def pictures(count: int, tokens: int = 4, width: int = 32, seed: int = 1) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((count, tokens, width)) * 4).astype(np.float32)


@pytest.mark.parametrize("release", RELEASES)
def test_rows_stand_between_the_tags(release: str, random_model: Path, rig: Callable[..., Rig]) -> None:
    images = pictures(1)
    reference = Reference(random_model, tiny_model.Spec())
    rows = np.concatenate([reference.rows([*b"a", IMG]), images[0], reference.rows([IMG_END, *b"b"])])
    r = rig(random_model, release)
    assert r.run(r.multimodal("a<image>b", images)) == 0
    assert r.ids == reference.greedy(rows, 8)
    assert r.states[-1] is CallState.FINISH
    assert r.run(r.multimodal("a<image>b", pictures(1, seed=2))) == 0
    assert r.ids != reference.greedy(rows, 8), "another picture, the same answer: the rows were not looked at"


@pytest.mark.parametrize("release", SEVERAL)
def test_two_images_in_the_order_given(release: str, random_model: Path, rig: Callable[..., Rig]) -> None:
    images = pictures(2)
    reference = Reference(random_model, tiny_model.Spec())
    rows = np.concatenate(
        [
            reference.rows([IMG]),
            images[0],
            reference.rows([IMG_END, *b" and ", IMG]),
            images[1],
            reference.rows([IMG_END, *b"?"]),
        ]
    )
    r = rig(random_model, release)
    assert r.run(r.multimodal("<image> and <image>?", images)) == 0
    assert r.ids == reference.greedy(rows, 8)


def test_tags_may_be_empty(random_model: Path, rig: Callable[..., Rig]) -> None:
    images = pictures(1)
    reference = Reference(random_model, tiny_model.Spec())
    r = rig(random_model)
    given = r.multimodal("<image>", images, image_start=b"", image_end=b"", image_content=b"")
    assert r.run(given, r.infer(InferMode.GET_LOGITS)) == 0
    np.testing.assert_allclose(r.events[0].array, reference.logits(images[0]), rtol=1e-4, atol=1e-4)


def test_images_may_be_gone_once_an_async_run_has_begun(random_model: Path, rig: Callable[..., Rig]) -> None:
    r = rig(random_model)
    images = pictures(1)
    assert r.run(r.multimodal("a<image>b", images)) == 0
    expected = r.ids
    given = r.multimodal("a<image>b", images)
    assert r.run(given, wait=False) == 0
    images[...] = np.nan
    r.f.rkllm_destroy(r.handle)  # waits; and aborts, so that a part of the answer may be missing
    assert r.ids == expected[: len(r.ids)]


class TestGridPositions:
    """A decoder with three positions per token (Qwen2-VL): rows and columns of the image."""

    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        return tiny_model.build(tmp_path / "grid", tiny_model.Spec(positions="3d"))

    def test_positions_of_the_image_and_after(self, model: Path, rig: Callable[..., Rig]) -> None:
        spec = tiny_model.Spec(positions="3d")
        images = pictures(1, tokens=6)
        reference = Reference(model, spec)
        rows = np.concatenate([reference.rows([*b"a", IMG]), images[0], reference.rows([IMG_END, *b"b"])])
        # Two tokens of text; 2 rows x 3 columns from position 2 on; text again after the largest, 2 + 2.
        positions = np.array(
            [
                [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
                [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
                [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
            ]
        )
        r = rig(model)
        keep = r.infer(InferMode.GET_LOGITS, keep_history=1)
        assert r.run(r.multimodal("a<image>b", images, size=(56, 84)), keep) == 0
        expected = reference.logits(rows, positions)
        np.testing.assert_allclose(r.events[0].array, expected, rtol=1e-3, atol=1e-3)
        assert r.run(r.tokens([65]), keep) == 0
        longer = np.concatenate([positions, [[7], [7], [7]]], axis=1)
        expected = reference.logits(np.concatenate([rows, reference.rows([65])]), longer)[-1:]
        np.testing.assert_allclose(r.events[0].array, expected, rtol=1e-3, atol=1e-3)

    def test_a_size_that_is_no_grid_is_refused(self, model: Path, rig: Callable[..., Rig]) -> None:
        r = rig(model)
        assert r.run(r.multimodal("<image>", pictures(1, tokens=6), size=(56, 56))) == -1
        assert "6 tokens are no grid of an image 56 x 56" in r.said()
        assert r.run(r.multimodal("<image>", pictures(1, tokens=9))) == 0, "without a size it is a square"


class TestRefusals:
    """Refused with -1 and words, before any callback, and with the handle as good as before."""

    def refused(self, r: Rig, given: object, words: str) -> None:
        assert r.run(given) == -1
        said = r.said()
        assert said.startswith("E rkllm: ")
        assert words in said
        assert r.events == []
        assert r.run("x") == 0
        assert r.events[-1].state is CallState.FINISH

    @pytest.mark.parametrize("release", RELEASES)
    def test_no_tag(self, release: str, random_model: Path, rig: Callable[..., Rig]) -> None:
        r = rig(random_model, release)
        images = pictures(1)
        self.refused(r, r.multimodal("what is it?", images), "no <image>")

    @pytest.mark.parametrize("release", RELEASES)
    def test_more_tags_than_images(self, release: str, random_model: Path, rig: Callable[..., Rig]) -> None:
        r = rig(random_model, release)
        images = pictures(1)
        self.refused(r, r.multimodal("<image><image>", images), "2 <image>, but the input has 1")

    def test_fewer_tags_than_images(self, random_model: Path, rig: Callable[..., Rig]) -> None:
        r = rig(random_model)
        images = pictures(3)
        self.refused(r, r.multimodal("<image> <image>", images), "2 <image>, but the input has 3")

    def test_tokens_unlike_the_model_s(self, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        spec = tiny_model.Spec(config={"image_seq_length": 4})
        r = rig(tiny_model.build(tmp_path, spec))
        images = pictures(1, tokens=5)
        self.refused(r, r.multimodal("<image>", images), "n_image_tokens is 5, but this model takes 4")
        images = pictures(1, tokens=4)
        assert r.run(r.multimodal("<image>", images)) == 0

    def test_counts_and_pointers(self, random_model: Path, rig: Callable[..., Rig]) -> None:
        r = rig(random_model)
        images = pictures(1)
        for name, value, words in (
            ("n_image", 0, "n_image is 0"),
            ("n_image_tokens", 0, "n_image_tokens is 0"),
            ("image_embed", None, "image_embed is NULL"),
            ("image_content", None, "image_content is NULL"),
        ):
            given = r.multimodal("<image>", images)
            setattr(given.multimodal_input.image, name, value)
            self.refused(r, given, words)
        given = r.multimodal("<image>", images)
        given.multimodal_input.video.video_embed = given.multimodal_input.image.image_embed
        self.refused(r, given, "Video")

    def test_a_model_of_ids_takes_no_images(self, tmp_path: Path, rig: Callable[..., Rig]) -> None:
        r = rig(tiny_model.build(tmp_path, tiny_model.Spec(takes_ids=True)))
        images = pictures(1)
        self.refused(r, r.multimodal("<image>", images), "takes token ids itself")
        self.refused(r, r.embedding(images[0]), "takes token ids itself")
