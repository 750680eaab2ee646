"""History that waits for its transaction: what a note costs, and when one is given up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from taskflow_otel.backends import MemoryBackend
from taskflow_otel.engine import ledger as module
from taskflow_otel.engine.ledger import Ledger
from taskflow_otel.engine.live import Phase
from taskflow_otel.testing.clock import FakeClock

_BOUND = 800
_VISITS = 10
"""A search visits every note, once whenever they have grown by an eighth: nine visits for each."""


class Noted:
    """Stands for a live task, and counts how often its phase is read."""

    reads = 0

    def __init__(self, name: str, phase: Phase) -> None:
        self.record = SimpleNamespace(task_id=name)
        self._phase = phase

    @property
    def phase(self) -> Phase:
        """Where it stands."""
        Noted.reads += 1
        return self._phase


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A ledger whose writer does not run, with small bounds."""
    monkeypatch.setattr(module, "_MAX_NOTES", _BOUND)
    monkeypatch.setattr(module, "_MAX_BATCH", 100)

    async def nothing() -> None: ...

    return Ledger(
        MemoryBackend(),
        FakeClock(),
        snapshot_interval=1.0,
        commit_timeout=5.0,
        observe=lambda *_: None,
        before_write=nothing,
        on_late=lambda *_: None,
    )


def note(ledger: Ledger, number: int, phase: Phase, prefix: str = "task") -> None:
    """Note this many tasks, and count anew how often a phase is read."""
    Noted.reads = 0
    for place in range(number):
        task: Any = Noted(f"{prefix} {place}", phase)
        ledger.note(task)


@pytest.mark.parametrize("failing", [False, True])
async def test_the_cost_of_a_note_does_not_grow_with_the_notes(ledger: Ledger, failing: bool) -> None:
    ledger.failing_since = 0.0 if failing else None
    note(ledger, 2_000, Phase.READY, "few")
    assert Noted.reads <= 2_000 * _VISITS
    note(ledger, 40_000, Phase.READY, "many")
    assert Noted.reads <= 40_000 * _VISITS


async def test_no_history_is_given_up_while_the_backend_answers(ledger: Ledger) -> None:
    note(ledger, _BOUND * 3, Phase.GONE)
    assert ledger.dropped_history == 0
    assert len(ledger._notes) == _BOUND * 3


async def test_while_the_backend_fails_finished_history_stays_within_its_bound_and_is_counted(ledger: Ledger) -> None:
    ledger.failing_since = 0.0
    note(ledger, _BOUND * 3, Phase.GONE)
    assert len(ledger._notes) <= _BOUND + _BOUND // 8
    assert ledger.dropped_history + len(ledger._notes) == _BOUND * 3
