"""The tables of a profile: their keys, types and limits, and what must agree within one of them."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, model_validator
from pydantic_core import PydanticCustomError

from vlm.keys import key_error


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("text", "expected text without a NUL character")
    return text


def _one_tag(text: str) -> str:
    # A tag is escaped by a space after its first character, which needs a second one, and no space in any tag.
    if len(text) < 2 or re.search(r"\s", text):
        raise PydanticCustomError("tag", "expected a tag of two characters or more, without spaces in it")
    return text


def _tag_or_space(text: str) -> str:
    if text.strip():
        _one_tag(text.strip())
    return text


def _relative(pattern: str) -> str:
    path = PurePosixPath(pattern)
    if not pattern or path.is_absolute() or ".." in path.parts:
        raise PydanticCustomError("pattern", "expected a path relative to the model directory, without ..")
    return pattern


Text = Annotated[str, AfterValidator(_no_nul)]
Tag = Annotated[str, AfterValidator(_no_nul), AfterValidator(_one_tag)]
SpacedTag = Annotated[str, AfterValidator(_no_nul), AfterValidator(_tag_or_space)]
Pattern = Annotated[str, AfterValidator(_no_nul), AfterValidator(_relative)]
Byte = Annotated[int, Field(ge=0, le=255)]
Positive = Annotated[FiniteFloat, Field(gt=0)]


class Table(BaseModel):
    """Some of a profile's keys: unknown ones, and values of another type, are errors."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class EncoderKeys(Table):
    """What the vision encoder takes and gives."""

    height: int = Field(ge=1, le=8192, description="Height of the encoder's input, in pixels.")
    width_px: int = Field(ge=1, le=8192, description="Width of the encoder's input, in pixels.")
    tokens: int = Field(ge=1, description="Embeddings that one image becomes.")
    width: int = Field(ge=1, description="Numbers in one embedding: the hidden size of the language model.")
    outputs: int = Field(1, ge=1, le=16, description="Tensors that the encoder gives: 1, or 1 + deepstack levels.")
    fit: Literal["pad", "stretch", "crop"] = Field(
        default="pad", description="How a picture of another shape is made to fit."
    )
    filter: Literal["bicubic", "lanczos"] = Field(
        default="bicubic", description="What it is resized with; antialiased, whichever it is."
    )
    background: tuple[Byte, Byte, Byte] = Field(
        (127, 127, 127), description="RGB, 0 to 255: behind transparent pixels, and for padding."
    )
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = Field(
        description="Taken off pixels in 0 to 1, by channel; ONNX encoders only, a .rknn file has it baked in."
    )
    std: tuple[Positive, Positive, Positive] = Field(description="What the difference is divided by, by channel.")
    patch: int | None = Field(
        None, ge=1, description="Side of a patch in pixels; given, size and tokens are checked against it."
    )
    merge: int = Field(1, ge=1, description="Patches along each side that become one token.")
    separators: bool = Field(False, description="One more token ends each row of tokens, and one more the image.")

    @model_validator(mode="after")
    def _tokens_follow_from_size(self) -> EncoderKeys:
        if self.patch is None:
            return self
        cell = self.patch * self.merge
        for key, pixels in (("height", self.height), ("width_px", self.width_px)):
            if pixels % cell:
                raise key_error(key, f"expected a multiple of patch x merge = {cell}; got {pixels}")
        rows, columns = self.height // cell, self.width_px // cell
        tokens = rows * (columns + 1) + 1 if self.separators else rows * columns
        if self.tokens != tokens:
            size = f"{self.width_px} x {self.height} pixels in cells of {cell}"
            size += " with separators" if self.separators else ""
            raise key_error("tokens", f"expected {tokens}, which is {size}; got {self.tokens}")
        return self


class TagKeys(Table):
    """The model's own tags around and for an image; the runtime puts them in place of each `<image>`."""

    start: SpacedTag = Field(description="Before the image's tokens; may be empty.")
    end: SpacedTag = Field(description="After the image's tokens; may be empty.")
    content: Tag = Field(description="Once for each of the image's tokens.")


class ReasoningKeys(Table):
    """How the model marks what it thinks before it answers."""

    start: Tag = Field(description="Before its thoughts.")
    end: Tag = Field(description="After them.")
    opened: bool = Field(False, description="`chat_template` writes `start` itself, where thinking is asked for.")


class ToolKeys(Table):
    """How the model marks a call of a function: between these, JSON with `name` and `arguments`."""

    start: Tag = Field(description="Before each call.")
    end: Tag = Field(description="After it.")


class FileKeys(Table):
    """Where the files lie, relative to a model directory."""

    encoder: tuple[Pattern, ...] = Field(
        min_length=1,
        description="Where the encoder may lie; the first pattern that fits counts. {soc} stands for the SoC's name.",
    )
    llm: tuple[Pattern, ...] = Field(
        min_length=1,
        description='The same for the language model; on a PC a directory of ONNX files, "." the model directory.',
    )


class FilesKeys(Table):
    """The files of the model, for a PC and for a board."""

    bundled: bool = Field(False, description="The files come with rkvlm (the demo model).")
    host: FileKeys | None = Field(None, description="For ONNX Runtime on a PC.")
    board: FileKeys | None = Field(None, description="For the NPU.")


class HubKeys(Table):
    """A public conversion of the model on the Hugging Face hub, for `vlm pull`."""

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="Who made it and its name there, owner/repo.")
    files: tuple[Pattern, ...] = Field(min_length=1, description="The files to fetch, names or patterns.")
    soc: str | None = Field(None, description="The SoC that they are for, where it is one.")
