"""One TOML file, one frozen profile: everything that differs between models.

Unknown keys, wrong types and values that contradict each other are errors that name the file and the key; nothing is
converted or guessed. configs/README.md documents every key; its table is made from the descriptions below, and from
those of the tables (vlm/profile_tables.py).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from vlm.errors import FileChoiceError, ProfileError, RequestError
from vlm.keys import did_you_mean, explain, key_error, keys_of
from vlm.options import CoreOptions, Sampling
from vlm.profile_tables import EncoderKeys, FilesKeys, HubKeys, ReasoningKeys, Table, Tag, TagKeys, Text, ToolKeys
from vlm.prompt import IMAGE, IMAGE_TAG, Message, render
from vlm.resources import configs_dir
from vlm.speech import ToolCall

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from encoders.base import VisionSpec

Side = Literal["host", "board"]
FilePart = Literal["encoder", "llm"]
_TAG_LIKE = re.compile(r"<[^\s<>]+>")


class Profile(Table):
    """One model's facts, checked. Made by `load_profile` and `parse_profile`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="The profile's name; also the file's.")
    family: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="The kind of model.")
    description: Text = Field(min_length=1, description="What it is, in one line.")
    min_release: str = Field(description="The first release of the RKLLM runtime that can run it.")
    chat_template: Text = Field(min_length=1, description="Jinja template of the whole conversation; see above.")
    system: Text = Field("", description="System message of a conversation that brings none of its own.")
    control: tuple[Tag, ...] = Field(
        description="The tokenizer's special tokens; in messages they are escaped or refused, as are the image tags."
    )
    stop: tuple[Text, ...] = Field((), description="Texts that end an answer.")
    thinking: bool = Field(False, description="The template knows `enable_thinking`.")
    max_context_len: int = Field(ge=32, le=16384, description="Tokens of prompt, images and answer together.")
    max_new_tokens: int = Field(256, ge=1, le=16384, description="Tokens of an answer, if the question does not say.")
    encoder: EncoderKeys
    tags: TagKeys
    reasoning: ReasoningKeys | None = None
    tools: ToolKeys | None = None
    sampling: Sampling = Field(default=Sampling())
    cores: CoreOptions = Field(default=CoreOptions())
    files: FilesKeys
    hub: HubKeys | None = Field(None, description="A public conversion on the Hugging Face hub.")
    sources: Mapping[str, Text] = Field(
        default_factory=dict, description='Where a value was read: `"encoder.width" = "config.json, hidden_size"`.'
    )
    unproven: tuple[str, ...] = Field((), description="Keys whose value was inferred, or read for a sister model only.")

    _path: Path | None = PrivateAttr(default=None)

    @field_validator("min_release")
    @classmethod
    def _known_release(cls, release: str) -> str:
        from vlm.rkllm.abi import RELEASES

        if release not in RELEASES:
            raise PydanticCustomError("release", "expected one of {known}", {"known": ", ".join(RELEASES)})
        return release

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Profile:
        needed = self.encoder.tokens + self.max_new_tokens
        if self.max_context_len <= needed:
            what = f"encoder.tokens + max_new_tokens = {needed}"
            raise key_error("max_context_len", f"expected more than {what}; got {self.max_context_len}")
        known = [key.name for key in keys_of(Profile)]
        for table, names in (("sources", self.sources), ("unproven", self.unproven)):
            for name in names:
                if name not in known:
                    raise key_error(table, f'expected names of keys; got "{name}"{did_you_mean(name, known)}')
        _check_template(self)
        for table, marks in (("reasoning", self.reasoning), ("tools", self.tools)):
            missing = [tag for tag in (marks.start, marks.end) if tag not in self.control] if marks else []
            if missing:
                raise key_error(table, f"expected tags that control lists; got {', '.join(missing)}")
        return self

    @property
    def path(self) -> Path | None:
        """The file it was read from, or None when it was parsed from a text."""
        return self._path

    @property
    def vision(self) -> VisionSpec:
        """What the encoder takes and gives, in the encoders' own terms."""
        from encoders.base import VisionSpec

        return VisionSpec(**self.encoder.model_dump(exclude={"patch", "merge", "separators"}))

    @property
    def control_tags(self) -> tuple[str, ...]:
        """Every text that has a meaning of its own in a prompt, the longest first: `<image>`, image tags, `control`."""
        image_tags = (tag.strip() for tag in (self.tags.start, self.tags.end, self.tags.content))
        tags = {IMAGE_TAG, *self.control, *(tag for tag in image_tags if tag)}
        return tuple(sorted(tags, key=lambda tag: (-len(tag), tag)))

    def find_file(
        self, directory: str | os.PathLike[str], part: FilePart, side: Side, *, soc: str | None = None
    ) -> Path:
        """Return the encoder or the language model in `directory`, for a PC ("host") or a board ("board").

        The language model of a PC is a directory, that of a board a file. soc: the SoC's name as file names have it
        ("rk3588"); None accepts any. Raises ProfileError when there is none, FileChoiceError when a pattern fits
        several.
        """
        keys = self.files.host if side == "host" else self.files.board
        if keys is None:
            raise ProfileError(f"Profile {self.name} names no files for the {side}; add [files.{side}] to it.")
        root = Path(directory)
        if not root.is_dir():
            how = f"`vlm pull {self.name}` fetches it" if self.hub else "`vlm models` says what belongs there"
            raise ProfileError(
                f"There is no model directory {root} for {self.name}: {how}. VLM_MODELS_DIR names another place for "
                "models, --encoder and --llm name files of your own."
            )
        patterns = keys.encoder if part == "encoder" else keys.llm
        wanted = list(dict.fromkeys(_with_soc(pattern, soc) for pattern in patterns))
        for pattern in wanted:
            found = _directory(root / pattern) if part == "llm" and side == "host" else sorted(root.glob(pattern))
            if len(found) > 1:
                names = ", ".join(path.name for path in found)
                raise FileChoiceError(
                    f"{root} has several files for {pattern} ({part} of {self.name}): {names}. Say which with --{part}."
                )
            if found:
                return found[0]
        raise ProfileError(
            f"{root} has no {part} for {self.name}; looked for {', '.join(wanted)}. Say where it is with --{part}."
        )


def _directory(path: Path) -> list[Path]:
    """`path` where it is a model directory of the host runtime: config.json alone lies beside many a .rkllm too."""
    decoders = ("decoder_model*.onnx", "model*.onnx")
    there = any(any(place.glob(name)) for place in (path, path / "onnx") for name in decoders)
    return [path] if there and (path / "config.json").is_file() else []


def _with_soc(pattern: str, soc: str | None) -> str:
    return pattern.replace("{soc}", soc) if soc else re.sub(r"\*?\{soc\}\*?", "*", pattern)


def _check_template(profile: Profile) -> None:
    """Render a conversation that uses everything, so that a broken template is found before a user asks."""
    words = ("alpha", "bravo", "charlie", "delta")
    conversation = [
        Message("system", words[0]),
        Message("user", [IMAGE, words[1]]),
        Message("assistant", words[2]),
        Message("user", [words[3], IMAGE]),
    ]
    try:
        text = render(profile, conversation).text
        render(profile, [Message("user", words[1])], on_control="refuse")
    except RequestError as exc:
        raise key_error("chat_template", str(exc).rstrip(".")) from exc
    places = [text.find(word) for word in words]
    if -1 in places or places != sorted(places):
        raise key_error("chat_template", "expected every message's text in the prompt, in order; got " + repr(text))
    if profile.tools is not None:
        _check_tools(profile)
    unlisted = sorted(set(_TAG_LIKE.findall(text)) - set(profile.control_tags))
    if unlisted:
        # A tag of the template that is not listed could be typed by a user, and would end his own turn.
        raise key_error("control", f"expected every tag of chat_template; missing {', '.join(unlisted)}")


def _check_tools(profile: Profile) -> None:
    call = ToolCall("echo", {"foxtrot": "golf"})
    conversation = [Message("user", "hotel"), Message("assistant", "", calls=[call]), Message("tool", "india")]
    try:
        text = render(profile, conversation, tools=[{"type": "function", "function": {"name": "juliett"}}]).text
    except RequestError as exc:
        raise key_error("tools", str(exc).rstrip(".")) from exc
    places = [text.find(word) for word in ("juliett", "hotel", "foxtrot", "india")]
    if -1 in places or places != sorted(places):
        raise key_error("tools", "expected chat_template to write tools, calls and answers; got " + repr(text))


def parse_profile(text: str, origin: str) -> Profile:
    """Make a profile from the text of a TOML file; `origin` names it in messages.

    Raises ProfileError, naming every key that is wrong with what was expected and what was there.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ProfileError(f"{origin}: expected TOML; {exc}.") from exc
    try:
        return Profile.model_validate(_frozen(data), strict=True)
    except ValidationError as exc:
        problems = explain(exc, Profile)
        listed = problems[0] if len(problems) == 1 else "".join(f"\n  {problem}" for problem in problems)
        raise ProfileError(f"{origin}: {listed}") from exc


def _frozen(value: Any) -> Any:
    """Turn arrays into tuples, so that a strict and frozen model takes them."""
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def load_profile(
    name_or_path: str | os.PathLike[str], *, directories: Sequence[str | os.PathLike[str]] = ()
) -> Profile:
    """Read one profile: a file (a path, or text with a slash or ending in .toml), or a name.

    directories: where to look for a name before the built-in profiles. Raises ProfileError.
    """
    given = os.fspath(name_or_path)
    if not isinstance(name_or_path, str) or "/" in given or given.endswith(".toml"):
        return _read(Path(given))
    files = dict(_files(directories))
    if given not in files:
        names = sorted(files)
        raise ProfileError(
            f'There is no profile "{given}"{did_you_mean(given, names)}. Known: {", ".join(names)}. A profile of your '
            "own is given by its path."
        )
    return _read_named(given, files[given])


def list_profiles(directories: Sequence[str | os.PathLike[str]] = ()) -> list[Profile]:
    """Read every profile, sorted by name; one in `directories` stands before a built-in one of its name.

    Raises ProfileError when one of them is wrong.
    """
    return [_read_named(name, path) for name, path in sorted(dict(_files(directories)).items())]


def _files(directories: Sequence[str | os.PathLike[str]]) -> Iterator[tuple[str, Path]]:
    """Yield name and path of each profile; of a name that comes twice, the later one counts."""
    for directory in [configs_dir(), *map(Path, reversed(directories))]:
        for path in sorted(directory.glob("*.toml")):
            yield path.stem, path


def _read_named(name: str, path: Path) -> Profile:
    profile = _read(path)
    if profile.name != name:
        raise ProfileError(f'{path}: name: expected "{name}", as the file is called; got "{profile.name}".')
    return profile


def _read(path: Path) -> Profile:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ProfileError(f"The profile {path} cannot be read: {exc}.") from exc
    profile = parse_profile(text, str(path))
    profile._path = path
    return profile
