"""From what a user named to files: which profile, which encoder, which language model, and who runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vlm.errors import EncoderFileError, FileChoiceError, ModelLoadError, ProfileError
from vlm.npu import SOCS, advice, find_soc
from vlm.profile import FilePart, Profile, Side, list_profiles, load_profile
from vlm.resources import demo_dir
from vlm.settings import Settings, load_settings

PROFILE_FILE = "profile.toml"
DEFAULT_MODEL = "demo"
PARTS: Final[tuple[FilePart, ...]] = ("encoder", "llm")


@dataclass(frozen=True)
class Parts:
    """What a model is made of.

    encoder: None for text alone. llm: a .rkllm file for the board, a model directory for the host runtime.
    """

    profile: Profile
    encoder: Path | None
    llm: Path

    @property
    def side(self) -> Side:
        """Who runs the language model: "board" (librkllmrt.so) or "host" (ONNX Runtime)."""
        return "board" if self.llm.suffix == ".rkllm" else "host"


def locate(
    model: str | Path | None,
    settings: Settings,
    *,
    encoder: str | Path | None = None,
    llm: str | Path | None = None,
    pictures: bool = True,
) -> Parts:
    """Find the profile and the two files.

    model: a profile's name, a profile file of the user's own, or a directory with model files; None takes the setting,
    else the demo. encoder, llm: the user's own files in place of those of the model directory. pictures: whether an
    encoder is wanted at all.

    Raises ProfileError, EncoderFileError or ModelLoadError, each saying where it looked.
    """
    profile, directory = find_profile(model, settings)
    found_encoder = given_part(encoder, "encoder") if encoder is not None else None
    found_llm = given_part(llm, "llm") if llm is not None else None
    if found_encoder is None and pictures:
        found_encoder = find_part(profile, directory, "encoder")
    if found_llm is None:
        found_llm = find_part(profile, directory, "llm")
    return Parts(profile, found_encoder, found_llm)


def find_profile(model: str | Path | None, settings: Settings) -> tuple[Profile, Path]:
    """The profile that `locate` would take, and the directory that its files are in. Raises ProfileError."""
    return _profile_of(model if model is not None else settings.model or DEFAULT_MODEL, settings)


@dataclass(frozen=True)
class ModelInfo:
    """A profile, and which of its files are on this machine.

    min_release: the first RKLLM release that runs it. pixels: width and height of the encoder's input. tokens: what one
    image becomes. directory: where the files are looked for. encoder, llm: where they are, or None. wanted: for each of
    the two, the names it may have there. unproven: the profile's keys whose value was inferred, or read for a sister
    model only. sources: for each key, where its value was read. hub: the repository that `vlm pull` fetches it from, or
    None. cores: for each SoC, which NPU cores to use.
    """

    name: str
    description: str
    min_release: str
    pixels: tuple[int, int]
    tokens: int
    directory: Path
    encoder: Path | None
    llm: Path | None
    wanted: dict[str, list[str]]
    unproven: tuple[str, ...]
    sources: Mapping[str, str]
    hub: str | None
    cores: Mapping[str, str]

    @property
    def ready(self) -> bool:
        """Whether both files are there."""
        return self.encoder is not None and self.llm is not None


def models(model: str | Path | None = None) -> list[ModelInfo]:
    """List the profiles that ship with rkvlm, and what each needs to run on this machine; with `model`, that one alone.

    model: as for `locate`. Raises ProfileError when a profile is wrong or unknown, OptionError when a setting is.
    """
    settings = load_settings()
    if model is not None:
        return [_info(*find_profile(model, settings))]
    return [_info(profile, home(profile, settings)) for profile in list_profiles()]


def model_name(model: str | Path | None = None) -> str:
    """The name that answers of `model` bear, without opening it: a profile's name. None is as for `locate`.

    Raises ProfileError when there is no such profile, OptionError when a setting is wrong.
    """
    return find_profile(model, load_settings())[0].name


def _info(profile: Profile, directory: Path) -> ModelInfo:
    found: dict[str, Path | None] = {}
    for part in PARTS:
        try:
            found[part] = find_part(profile, directory, part)
        except ProfileError:
            found[part] = None
    sides = [keys for keys in (profile.files.host, profile.files.board) if keys is not None]
    wanted: dict[str, list[str]] = {part: [name for keys in sides for name in getattr(keys, part)] for part in PARTS}
    return ModelInfo(
        profile.name,
        profile.description,
        profile.min_release,
        (profile.encoder.width_px, profile.encoder.height),
        profile.encoder.tokens,
        directory,
        found["encoder"],
        found["llm"],
        wanted,
        profile.unproven,
        profile.sources,
        profile.hub.repo if profile.hub else None,
        {name: advice(soc) for name, soc in SOCS.items()},
    )


def _profile_of(model: str | Path, settings: Settings) -> tuple[Profile, Path]:
    """Return the profile that `model` names, and the directory to look for files in."""
    path = Path(model).expanduser()
    if path.is_dir():
        own = path / PROFILE_FILE
        if own.is_file():
            return load_profile(own), path
        try:
            return load_profile(path.resolve().name), path
        except ProfileError as exc:
            raise ProfileError(f"{path} has no {PROFILE_FILE}, so that its name has to be a profile's. {exc}") from exc
    if path.suffix == ".toml":
        return load_profile(path), path.parent
    profile = load_profile(str(model))
    return profile, home(profile, settings)


def home(profile: Profile, settings: Settings) -> Path:
    """The directory where a profile's files are looked for."""
    return demo_dir() if profile.files.bundled else settings.models_dir.expanduser() / profile.name


def find_part(profile: Profile, directory: Path, part: FilePart) -> Path:
    """Return the file of this side, a board or a PC; where there is none, the other side's.

    So a board takes its own encoder and, where a model has no .rkllm, the PC's language model. A PC that stands for a
    board (VLM_SOC) stays a PC here: it runs no .rknn.

    Raises ProfileError where there is none, FileChoiceError where several fit.
    """
    problems = []
    soc = find_soc()
    sides: tuple[Side, ...] = ("board", "host") if soc else ("host", "board")
    for side in sides:
        try:
            return profile.find_file(directory, part, side, soc=soc.name if soc else None)
        except FileChoiceError:
            raise
        except ProfileError as exc:
            problems.append(str(exc))
    raise ProfileError(" ".join(dict.fromkeys(problems)))


def given_part(path: str | Path, part: str) -> Path:
    """Return a file of the user's own. Raises EncoderFileError or ModelLoadError where there is none."""
    given = Path(path).expanduser()
    if not given.exists():
        kind = EncoderFileError if part == "encoder" else ModelLoadError
        raise kind(f"There is no file or directory {given}, which was given as the {part}.")
    return given
