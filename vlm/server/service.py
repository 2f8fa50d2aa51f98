"""What the protocols share: the engine, the settings, the figures, and the model that they may name."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from starlette.requests import Request

from vlm import Engine, ModelFacts, Question, Reply, __version__
from vlm.errors import ServiceBusyError, UnknownModelError
from vlm.server import limits
from vlm.server.fetch import Fetcher
from vlm.server.health import Metrics
from vlm.settings import ServeSettings


class Service:
    """One service over one engine."""

    def __init__(self, engine: Engine, settings: ServeSettings, fetcher: Fetcher, samples: Path | None) -> None:
        self.engine = engine
        self.settings = settings
        self.fetcher = fetcher
        self.samples = sorted(file.name for file in samples.iterdir() if file.suffix != ".json") if samples else []
        self.metrics = Metrics(engine)
        self.started = int(time.time())

    def ask(self, request: Request, question: Question) -> Reply:
        """Put a question to the engine, and note it for the log. Raises RkvlmError."""
        limits.check(question, self.settings)
        reply = self.engine.ask(question)
        request.state.question, request.state.reply = question, reply
        return reply

    @property
    def model(self) -> ModelFacts:
        """What is known of the model. Raises ServiceBusyError before it was opened for the first time."""
        facts = self.engine.health().model
        if facts is None:
            raise ServiceBusyError("The model is still being opened; ask again later.", retry_after=5)
        return facts

    def check_model(self, name: str) -> str:
        """The model's name, with its adapter's, where `name` is it. Raises UnknownModelError, ServiceBusyError."""
        names = self.names
        if name.removesuffix(":latest") not in names:
            listed = ", ".join(map(repr, names))
            raise UnknownModelError(f"There is no model {name!r:.100} here; this service has {listed}.")
        return name.removesuffix(":latest")

    @property
    def names(self) -> list[str]:
        """What may be asked: the model, and the model with each of its adapters, `model@adapter`."""
        model = self.model
        return [model.name, *(f"{model.name}@{adapter}" for adapter in model.adapters)]

    @staticmethod
    def options_for(name: str) -> dict[str, Any]:
        """The options that the name of a model stands for, one that `check_model` gave."""
        adapter = name.partition("@")[2]
        return {"adapter": adapter} if adapter else {}

    def info(self) -> dict[str, Any]:
        """What there is to know for whoever wants to ask."""
        health, settings = self.engine.health(), self.settings
        model = health.model
        return {
            "version": __version__,
            "state": health.state,
            "model": None
            if model is None
            else {
                "name": model.name,
                "family": model.family,
                "description": model.description,
                "pictures": model.pictures,
                "adapters": list(model.adapters),
                "tools": model.tools,
                "thinking": model.thinking,
                "max_context_len": model.max_context_len,
                "runtime": model.runtime,
                "release": model.release,
                "cores": model.cores,
            },
            "options": model.options if model else {},
            "limits": {
                "images": settings.max_images,
                "image_bytes": settings.max_image_bytes,
                "pixels": settings.max_pixels,
                "body_bytes": settings.max_body_bytes,
                "prompt_chars": settings.max_prompt_chars,
                "new_tokens": settings.max_answer_tokens,
            },
            "samples": [{"name": name, "url": f"/samples/{name}"} for name in self.samples],
        }


def service_of(request: Request) -> Service:
    """The service that a request was sent to."""
    service: Service = request.app.state.service
    return service
