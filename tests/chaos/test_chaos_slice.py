"""A short storm over each backend: every named crash point, kills at random moments, pauses, drains, restarts."""

from __future__ import annotations

import pytest

from tests.chaos.crash_points import STOPPED_IN_TRANSACTION
from tests.chaos.plan import BACKENDS, Plan
from tests.chaos.storm import run_storm
from tests.servers import find_binary

BINARIES = {
    "postgres": ("postgres", "postgresql"),
    "mysql": ("mariadbd", "mariadb-server"),
    "redis": ("redis-server", "redis-server"),
    "pgbouncer": ("pgbouncer", "pgbouncer"),
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_acknowledged_is_lost_and_nothing_ends_twice(backend: str) -> None:
    if backend in BINARIES:
        find_binary(*BINARIES[backend])
    report = run_storm(Plan(backend, kills=12, seconds=25, seed=3))
    assert report.kills > 0
    assert report.executions > 0
    assert report.spans > 0 < report.log_records
    assert (report.losses, report.violations, report.differences) == (0, [], []), f"\n{report}"


@pytest.mark.parametrize("backend", ["sqlite", "postgres", "mysql", "redis"])
def test_web_processes_that_only_enqueue_and_workers_lose_nothing_either(backend: str) -> None:
    if backend in BINARIES:
        find_binary(*BINARIES[backend])
    report = run_storm(Plan(backend, kills=10, seconds=15, seed=3, workers=2))
    assert report.executions > 0
    assert report.kills_by_kind.keys() == {"web", "worker"}
    assert (report.losses, report.violations, report.differences) == (0, [], []), f"\n{report}"


def test_children_of_celery_lose_nothing_though_the_broker_forgets_and_each_message_comes_twice() -> None:
    find_binary(*BINARIES["redis"])
    report = run_storm(Plan("sqlite", kills=12, seconds=12, seed=3, workers=1, broker="redis", twice=True))
    assert report.executions > 0
    assert report.kills_by_kind.keys() == {"web", "celery"}
    assert report.doorbells["rung"] > 0
    assert (report.losses, report.violations, report.differences) == (0, [], []), f"\n{report}"


@pytest.mark.parametrize("backend", ["postgres", "mysql", "pgbouncer"])
def test_an_instance_that_is_stopped_inside_a_transaction_holds_nobody_up(backend: str) -> None:
    find_binary(*BINARIES[backend])
    report = run_storm(Plan(backend, kills=100, seconds=20, seed=3, faults=(STOPPED_IN_TRANSACTION,), shaken=False))
    assert report.other_faults.get(STOPPED_IN_TRANSACTION, 0) > 0
    assert (report.losses, report.violations, report.differences) == (0, [], []), f"\n{report}"
