"""What a machine's owner sets once: VLM_* in the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from vlm.errors import OptionError


class Settings(BaseSettings):
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


def load_settings() -> Settings:
    """Read the settings. Raises OptionError that names the variable."""
    try:
        return Settings()
    except ValidationError as exc:
        first = exc.errors()[0]
        name = "VLM_" + "_".join(str(part) for part in first["loc"]).upper()
        raise OptionError(f"{name}: {first['msg']}; got {first['input']!r}.") from exc
