"""docs/http.md says what the service has: routes, fields, states, statuses and figures, neither less nor more."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import get_args

from sample_pictures import ROOT
from service_rig import Served

from vlm import Answer, errors
from vlm.engine.health import State
from vlm.options import RunOptions
from vlm.server.openai import IGNORED, OURS

PAGE = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
NEVER_SENT = {errors.ServiceUnreachableError.http_status}
"""Statuses of errors that a client raises itself."""


def rows(head: str) -> list[list[str]]:
    """The table under the line that begins with `head`: for each row, its cells."""
    _, found, rest = PAGE.partition(f"\n| {head} |")
    assert found, head
    lines = [line for line in rest.partition("\n\n")[0].splitlines()[2:] if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def named(text: str) -> set[str]:
    """What stands in backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def names(head: str) -> set[str]:
    """What stands in backticks in the first column of a table."""
    return {name for row in rows(head) for name in named(row[0])}


def test_every_route_is_there(service: Served) -> None:
    paths = service.get("/openapi.json").json()["paths"]
    said = set(re.findall(r"(?<![\w/.:])/[\w/.{}]+", PAGE))
    assert paths.keys() - said == set()
    with_methods = set(re.findall(r"\b(GET|POST) (/[\w/.{}]+)", PAGE))
    assert with_methods <= {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert len(with_methods) > 10


def test_the_figures(service: Served) -> None:
    """Prometheus's library adds to a counter or histogram when it was made; that is no figure of ours."""
    served = set(re.findall(r"^# TYPE (\w+)", service.get("/metrics").text, flags=re.MULTILINE))
    assert names("Figure") == {name for name in served if not name.endswith("_created")}


def test_the_form_and_its_answer() -> None:
    assert names("Field") == {"image", "prompt", "history", "stream", *RunOptions.model_fields}
    assert names("Key") == {field.name for field in fields(Answer)}


def test_what_openai_lacks_and_what_is_not_used() -> None:
    prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert named(prose) >= OURS | IGNORED


def test_the_states() -> None:
    assert names("State") == set(get_args(State))


def test_the_statuses() -> None:
    """Each error has the status of its class, and there is no status without a row."""
    table = [(int(status), name) for status, text, *_ in rows("Status") for name in named(text) if name[0].isupper()]
    for status, name in table:
        assert getattr(errors, name).http_status == status, name
    every = {getattr(errors, name).http_status for name in errors.__all__}
    assert {status for status, _ in table} == every - NEVER_SENT
