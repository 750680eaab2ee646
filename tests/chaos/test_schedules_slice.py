"""A short storm over schedules on each backend: three instances, kills, a freeze, and a time in which none is there."""

from __future__ import annotations

import pytest

from tests.chaos.schedules import SCHEDULED, Plan, run_storm
from tests.chaos.test_chaos_slice import BINARIES
from tests.servers import find_binary


@pytest.mark.parametrize("backend", SCHEDULED)
def test_each_firing_time_makes_one_task_that_runs(backend: str) -> None:
    if backend in BINARIES:
        find_binary(*BINARIES[backend])
    report = run_storm(Plan(backend, seconds=3, seed=4, pace=(0.5, 1), blackouts=1, away=(2, 2.5)))
    assert report.kills > 3
    assert report.blackouts == 1
    assert report.runs > 0
    assert report.violations == [], report
