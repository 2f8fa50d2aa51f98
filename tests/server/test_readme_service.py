"""What the README asks a service, asked of one."""

from __future__ import annotations

import pytest
from sample_pictures import TRUTH
from service_rig import Served
from test_readme import SERVED, run


@pytest.mark.parametrize("line", [line for line in SERVED if line != "vlm serve"])
def test_the_readmes_questions_are_answered(line: str, demo_service: Served) -> None:
    address = demo_service.url.removeprefix("http://")
    said = run(line.replace("127.0.0.1:8080", address))
    if "night.jpg" in line:
        assert "There are two stars." in said or TRUTH["night.jpg"] in said or "event: done" in said
    else:
        assert '"model"' in said
        assert "demo" in said


def test_the_service_is_shown() -> None:
    assert "vlm serve" in SERVED
    assert sum(line.startswith("curl") for line in SERVED) >= 4
