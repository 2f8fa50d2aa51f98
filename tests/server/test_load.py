"""Many clients at once, trouble included; `load.py` is the script that prints the figures of the long form."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from load import LIMITS, Figures, Plan, run
from service_rig import serve, standin_words


def under_load(folder: Path, plan: Plan, *more: object) -> Figures:
    with serve(*standin_words(folder, "1.3.0"), *LIMITS, *more) as served:
        figures = asyncio.run(run(served.ready(), plan))
    print(figures)
    assert (figures.wrong, figures.lost) == ([], [])
    ends = figures.answered + figures.left + figures.refused + sum(figures.errors.values())
    assert ends == figures.asked
    return figures


def test_trouble_under_load(tmp_path: Path) -> None:
    plan = Plan(clients=16, seconds=6, kills=1)
    figures = under_load(tmp_path, plan, "--deadline-s", 2)
    assert min(figures.answered, figures.left, figures.refused) > 0
    assert set(figures.errors) <= {"EngineCrashedError", "EngineDeadlineError"}
    assert figures.rss_mib[1] < figures.rss_mib[0] + 64


@pytest.mark.slow
def test_trouble_under_heavy_load(tmp_path: Path) -> None:
    figures = under_load(tmp_path, Plan())
    assert figures.share > 0.9
    assert figures.rss_mib[1] < figures.rss_mib[0] + 64


def unpaced(answers: int) -> Plan:
    """Answers as fast as the library gives them, whose last token and end come in the same instant."""
    return Plan(clients=8, answers=answers, pace_ms=0, leave=4, broken=0, kills=0, hangs=0)


def test_no_answer_is_lost_or_anothers(tmp_path: Path) -> None:
    figures = under_load(tmp_path, unpaced(200))
    assert (figures.answered + figures.left, figures.errors) == (200, {})


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_answer_of_many_is_lost_or_anothers(tmp_path: Path) -> None:
    figures = under_load(tmp_path, unpaced(5000))
    assert (figures.answered + figures.left, figures.errors) == (5000, {})
