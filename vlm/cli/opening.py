"""The model that a command talks to: opened here, or on a running service."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlm.errors import OptionError
from vlm.options import NpuOptions, adapter_file

if TYPE_CHECKING:
    from vlm import VLM, RemoteVLM


@dataclass(frozen=True)
class Where:
    """Which model, and where it runs: the options that commands share."""

    model: str | None
    encoder: str | None = None
    llm: str | None = None
    library: str | None = None
    release: str | None = None
    server: str | None = None
    api_key: str | None = None
    pictures: bool = True
    lora: str | None = None

    def leave_to_service(self, options: Collection[str]) -> None:
        """Raise OptionError where something was said that is a service's own affair."""
        own = [name for name in ("encoder", "llm", "library", "release", "lora") if getattr(self, name)]
        own += [name.replace("_", "-") for name in NpuOptions.model_fields if name in options]
        if own or not self.pictures:
            raise OptionError(f"--{own[0] if own else 'no-pictures'} is the service's own affair; leave it out.")


@contextmanager
def opened(where: Where, options: dict[str, Any]) -> Iterator[VLM | RemoteVLM]:
    """Open the model, and say on stderr which one it is where nobody named it. Raises RkvlmError."""
    import vlm

    model: VLM | RemoteVLM
    if where.lora and not where.server:
        # The one adapter that is named is the one to answer with.
        options = {"adapter": adapter_file(where.lora).name, **options, "settings": {"lora": [where.lora]}}
    if where.server:
        where.leave_to_service(options)
        model = vlm.connect(where.server, api_key=where.api_key, model=where.model, **options)
    else:
        model = vlm.load(
            where.model,
            encoder=where.encoder,
            llm=where.llm,
            library=where.library,
            release=where.release,
            pictures=where.pictures,
            **options,
        )
    with model:
        if where.model is None:
            other = f"at {where.server}" if where.server else "(--model or VLM_MODEL choose another)"
            print(f"vlm: using the model {model.name} {other}", file=sys.stderr)
        yield model
