"""What a machine's owner sets once: VLM_* in the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from vlm.errors import OptionError
from vlm.options import NpuOptions
from vlm.pace import Pace


class Settings(NpuOptions, BaseSettings):
    """Settings read from the environment; a call's own arguments and the command line's options win over them."""

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
    threads: int | None = Field(default=None, ge=1, description="Threads of ONNX Runtime; all cores when not set.")
    lock_dir: Path | None = Field(
        default=None, description="Where the files lie that say who holds the NPU; /run/lock or /tmp when not set."
    )
    soc: str | None = Field(
        default=None, description="The SoC to take this machine for, where its device tree does not say one."
    )
    pace: Pace | None = Field(default=None, description="A board's speed for a PC to keep to: JSON of vlm.pace.Pace.")


def load_settings() -> Settings:
    """Read the settings. Raises OptionError that names the variable."""
    try:
        return Settings()
    except ValidationError as exc:
        first = exc.errors()[0]
        name, *within = (str(part) for part in first["loc"])
        place = f"VLM_{name.upper()}{''.join(f', {part}' for part in within)}"
        raise OptionError(f"{place}: {first['msg']}; got {first['input']!r}.") from exc
    except SettingsError as exc:  # not the JSON that it has to be
        raise OptionError(f"VLM_PACE: expected JSON; {exc.__cause__ or exc}.") from exc
