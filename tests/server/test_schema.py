"""Schemathesis on the service's own OpenAPI: whatever is sent, nothing fails in the service."""

from __future__ import annotations

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck
from schemathesis.checks import not_a_server_error
from service_rig import Served

ORDINARY, SLOW = 100, 2000


def try_all(served: Served, cases: int) -> None:
    schema = schemathesis.openapi.from_url(served.url + "/openapi.json")
    tried, session = 0, requests.Session()
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.method == "get" and "{" not in operation.path:
            continue

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def send(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=[not_a_server_error], session=session, timeout=60)

        send()
        tried += 1
    session.close()
    assert tried >= 8


def test_nothing_fails(demo_service: Served) -> None:
    try_all(demo_service, ORDINARY)
    assert "Traceback" not in demo_service.errors


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nothing_fails_in_many_cases(demo_service: Served) -> None:
    try_all(demo_service, SLOW)
    assert "Traceback" not in demo_service.errors
