"""Whether the service is well: /healthz (it runs), /readyz (it would answer), /metrics (for Prometheus)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from vlm import Answer, Engine

router = APIRouter(tags=["health"])

NPU_LOAD = Path("/sys/kernel/debug/rknpu/load")
"""Where the vendor's driver shows each core's load, to root alone: "NPU load:  Core0:  8%, Core1:  0%, ..."."""

_MILLISECONDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000, 60000)
_RATES = (1, 2, 5, 10, 15, 20, 30, 50, 100, 200, 500, 1000, 5000, 20000)


@router.get("/healthz")
async def healthz(request: Request) -> Response:
    """Whether the service is alive: 200, or 503 where the model cannot be used and nothing is done about it."""
    health = request.app.state.service.engine.health()
    model = health.model
    facts = {"state": health.state, "model": model.name if model else None, "cores": model.cores if model else None}
    figures = {"waiting": health.waiting, "in_flight": health.in_flight, "restarts": health.totals.restarts}
    return JSONResponse({**facts, **figures}, 503 if health.state == "failed" else 200)


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """Whether a question would be answered now: 200, else 503."""
    health = request.app.state.service.engine.health()
    ready = health.answering
    return JSONResponse({"ready": ready, "state": health.state, "waiting": health.waiting}, 200 if ready else 503)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """The service's figures in Prometheus's text format."""
    return Response(request.app.state.service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


class Metrics:
    """The figures of one service. Its registry is its own: several services in one process do not mix."""

    def __init__(self, engine: Engine) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(_EngineFigures(engine))
        self._requests = Counter(
            "vlm_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self._queue = _milliseconds("vlm_queue_ms", "From a question to its turn.", registry)
        self._encode = _milliseconds("vlm_encode_ms", "Decoding, fitting and encoding of pictures.", registry)
        self._ttft = _milliseconds("vlm_ttft_ms", "From a question's turn to its first text.", registry)
        self._rate = Histogram("vlm_tokens_per_second", "Of an answer.", buckets=_RATES, registry=registry)
        self._tokens = Counter("vlm_tokens", "Tokens told, where the runtime says.", registry=registry)

    def count(self, route: str, status: int, answer: Answer | None) -> None:
        """Count a request, and what its answer took as far as that is known."""
        self._requests.labels(route, status).inc()
        if answer is None:
            return
        for histogram, figure in (
            (self._queue, answer.queue_ms),
            (self._encode, answer.encode_ms),
            (self._ttft, answer.ttft_ms),
            (self._rate, answer.tokens_per_second),
        ):
            if figure is not None:
                histogram.observe(figure)
        self._tokens.inc(answer.tokens or 0)

    def text(self) -> bytes:
        """Everything, in Prometheus's text format."""
        return generate_latest(self._registry)


class _EngineFigures:
    """What the engine says of itself at the time of asking."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        health = self._engine.health()
        gauges: dict[str, tuple[str, Any]] = {
            "vlm_ready": ("Whether a question would be answered.", health.answering),
            "vlm_queue_length": ("Questions that wait.", health.waiting),
            "vlm_in_flight": ("Questions that are worked on.", health.in_flight),
            "vlm_model_rss_bytes": ("Memory of the model's process.", health.rss_bytes),
            "vlm_cache_bytes": ("Memory of the pictures' embeddings.", health.cache.bytes),
        }
        counters = {
            "vlm_restarts": ("Restarts of the model's process.", health.totals.restarts),
            "vlm_cache_hits": ("Pictures whose embedding was there.", health.cache.hits),
            "vlm_cache_misses": ("Pictures that were encoded.", health.cache.misses),
        }
        for name, (words, value) in gauges.items():
            yield GaugeMetricFamily(name, words, value=float(value))
        for name, (words, count) in counters.items():
            yield CounterMetricFamily(name, words, value=count)
        load = GaugeMetricFamily("vlm_npu_load", "Load of an NPU core, 0 to 1.", labels=["core"])
        for core, percent in npu_load().items():
            load.add_metric([core], percent / 100)
        yield load


def npu_load(file: Path = NPU_LOAD) -> dict[str, int]:
    """The load of each NPU core in percent, empty where the machine does not offer it."""
    try:
        text = file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    cores = {core: int(percent) for core, percent in re.findall(r"Core(\d+):\s*(\d+)%", text)}
    whole = re.search(r"NPU load:\s*(\d+)%", text)  # SoCs with one core name none
    return cores or ({"0": int(whole[1])} if whole else {})


def _milliseconds(name: str, words: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, words, buckets=_MILLISECONDS, registry=registry)
