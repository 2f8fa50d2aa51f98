"""What a machine's owner sets once: VLM_* in the environment, and vlm.toml. docs/settings.md lists them all."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from vlm.engine.configuration import EngineLimits
from vlm.errors import OptionError
from vlm.keys import did_you_mean
from vlm.options import NpuOptions
from vlm.pace import Pace

FILE = "VLM_CONFIG"
"""The variable that names the settings file."""


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _hashed(keys: tuple[str, ...]) -> tuple[str, ...]:
    for key in keys:
        kind, _, digest = key.partition(":")
        if kind != "sha256" or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise ValueError("an API key is kept as sha256: and 64 hexadecimal digits; `vlm serve --new-key` makes one")
    return keys


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Several words: an array in vlm.toml, separated by commas in the environment."""


class Settings(NpuOptions, BaseSettings):
    """Settings read from the environment and from vlm.toml, in this order.

    A call's own arguments and the command line's options win over them.
    """

    model_config = SettingsConfigDict(env_prefix="VLM_", frozen=True, extra="ignore")

    model: str | None = Field(
        default=None, description="Model to use when none is named: a profile, a model directory."
    )
    models_dir: Path = Field(
        default=Path("~/.local/share/rkvlm/models"),
        description="Where model directories are looked for by profile name.",
    )
    converter_dir: Path = Field(
        default=Path("~/.local/share/rkvlm/converter"), description="Where `vlm convert setup` puts the converter."
    )
    rkllm_lib: Path | None = Field(default=None, description="librkllmrt.so, or the directory it lies in.")
    rkllm_release: str | None = Field(
        default=None, description="Release of librkllmrt.so, where its file does not say it."
    )
    sampling_per_run: Literal["warn", "refuse"] = Field(
        default="warn", description="What to do with a run's own sampling on releases before 1.3.0, which fix it."
    )
    cache_bytes: int = Field(
        default=64 << 20, ge=0, description="Memory for embeddings of pictures asked about before."
    )
    max_pixels: int = Field(default=64 << 20, ge=1, description="Width times height of a picture.")
    lora: Words = Field(
        default=(),
        description="LoRA adapters to load, each as [NAME=]FILE[@SCALE]; a question chooses one by its name.",
    )
    prompt_cache: Path | None = Field(
        default=None, description="Prompt cache file; for text alone (--no-pictures), it does not go with pictures."
    )
    threads: int | None = Field(default=None, ge=1, description="Threads of ONNX Runtime; all cores when not set.")
    lock_dir: Path | None = Field(
        default=None, description="Where the files lie that say who holds the NPU; /run/lock or /tmp when not set."
    )
    soc: str | None = Field(
        default=None, description="The SoC to take this machine for, where its device tree does not say one."
    )
    pace: Pace | None = Field(default=None, description="A board's speed for a PC to keep to: JSON of vlm.pace.Pace.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, the environment, vlm.toml: the first that has a value counts."""
        file = settings_file()
        return (init_settings, env_settings, *([_TomlFile(settings_cls, file)] if file else []))


class ServeSettings(Settings, EngineLimits):
    """The settings of `vlm serve`, which are its options too."""

    model_config = SettingsConfigDict(extra="ignore", title="Service")

    encoder: str | None = Field(default=None, description="Vision encoder of your own: a .onnx or .rknn file.")
    llm: str | None = Field(
        default=None, description="Language model of your own: a .rkllm file, or a directory of ONNX files."
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_keys: Annotated[Words, AfterValidator(_hashed)] = Field(
        default=(), description="Keys that are let in, as `vlm serve --new-key` writes them."
    )
    insecure: bool = Field(default=False, description="Listen for other machines without any API key.")
    allowed_hosts: Words = Field(
        default=(), description="Host names it is reached by, where no key protects it; localhost and addresses always."
    )
    cors_origins: Words = Field(default=(), description='Sites whose pages may ask, as "https://example.org".')
    allow_urls: bool = Field(default=False, description="Fetch pictures from public http and https addresses.")
    url_timeout_s: float = Field(default=10, gt=0, description="Longest time for fetching one picture.")
    url_redirects: int = Field(default=3, ge=0, le=10, description="Redirects followed for one picture.")
    max_body_bytes: int = Field(default=32 << 20, ge=1024, description="Bytes of one request.")
    max_held_bytes: int = Field(default=256 << 20, ge=1024, description="Bytes of all requests that are worked on.")
    max_images: int = Field(default=8, ge=0, description="Pictures of one question.")
    max_image_bytes: int = Field(default=16 << 20, ge=1024, description="Bytes of one picture.")
    max_prompt_chars: int = Field(default=32768, ge=1, description="Characters of one question and its history.")
    max_answer_tokens: int = Field(default=4096, ge=1, description="Most new tokens that a question may ask for.")
    max_connections: int = Field(default=256, ge=1, description="Connections at once.")
    body_timeout_s: float = Field(default=30, gt=0, description="Longest time for a request to arrive.")
    grace_s: float = Field(default=30, ge=0, description="Time that running answers have to end at SIGTERM.")
    log_content: bool = Field(default=False, description="Write questions and answers into the log.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="How much is logged.")

    def engine_limits(self) -> EngineLimits:
        """Those of them that are the engine's."""
        return EngineLimits(**self.model_dump(include=set(EngineLimits.model_fields)))

    def model_settings(self) -> dict[str, Any]:
        """Those of them that are the model's and not the default, as plain values."""
        return self.model_dump(mode="json", include=set(Settings.model_fields), exclude_defaults=True)


class _TomlFile(TomlConfigSettingsSource):
    """vlm.toml. Raises OptionError for a file that cannot be read and for a key that is no setting."""

    def __init__(self, settings_cls: type[BaseSettings], file: Path) -> None:
        try:
            super().__init__(settings_cls, file)
        except (OSError, ValueError) as exc:
            raise OptionError(f"The settings file {file} cannot be read: {exc}.") from exc
        known = list(ServeSettings.model_fields)
        for name in self.toml_data:
            if name not in known:
                raise OptionError(f"{file}: there is no setting {name}{did_you_mean(name, known)}.")


def settings_file() -> Path | None:
    """The file named by VLM_CONFIG, else the user's own vlm.toml, else the system's, else None.

    Raises OptionError when VLM_CONFIG names a file that is not there.
    """
    named = os.environ.get(FILE)
    if named:
        file = Path(named).expanduser()
        if not file.exists():
            raise OptionError(f"{FILE}: there is no file {file}.")
        return file
    own = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(own if os.path.isabs(own) else "~/.config").expanduser()
    return next((file for file in (base / "rkvlm" / "vlm.toml", Path("/etc/rkvlm/vlm.toml")) if file.is_file()), None)


S = TypeVar("S", bound=Settings)


def load_settings(given: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings; `given` win over the others. Raises OptionError that names the variable or the key."""
    return _load(Settings, dict(given or {}))


def load_serve_settings(**given: Any) -> ServeSettings:
    """Read the settings of `vlm serve`; `given` are its options. Raises OptionError."""
    return _load(ServeSettings, given)


def _load(kind: type[S], given: dict[str, Any]) -> S:
    try:
        return kind(**given)
    except ValidationError as exc:
        first = exc.errors()[0]
        name, *within = (str(part) for part in first["loc"])
        place = _place(name, given) + "".join(f", {part}" for part in within)
        got = "" if name == "api_keys" else f"; got {first['input']!r}"
        raise OptionError(f"{place}: {first['msg'].removeprefix('Value error, ')}{got}.") from exc
    except SettingsError as exc:  # an environment variable that is not the JSON it has to be
        named = re.search(r'field "(\w+)"', str(exc))
        place = f"VLM_{named[1].upper()}" if named else str(exc)
        raise OptionError(f"{place}: expected JSON; {exc.__cause__ or exc}.") from exc


def _place(name: str, given: dict[str, Any]) -> str:
    """Where the value of a setting was read, in words."""
    variable = f"VLM_{name.upper()}"
    if name in given:
        return f"--{name.replace('_', '-')}"
    return variable if variable in os.environ or settings_file() is None else f"{settings_file()}, {name}"
