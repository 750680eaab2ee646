"""Faults planted in a server of a storm, each of a kind that the storm exists to find.

A server that is given the name of one (`CHAOS_FAULT`) runs the library with that promise broken. A storm over such
servers has to fail by the rule that the fault breaks: `tests/chaos/test_planted.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from taskflow_otel.backends import Backend
from taskflow_otel.backends.base import Applied, Change, Insert, Outcome, Update
from taskflow_otel.backends.limits import Limits
from taskflow_otel.backends.sql.writes import Writer
from taskflow_otel.engine.door import Door
from taskflow_otel.engine.drain import Drain
from taskflow_otel.engine.fleet.doorbells import Doorbells
from taskflow_otel.engine.fleet.heartbeat import Heartbeat
from taskflow_otel.engine.late_commits import LateCommits
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.request.outbox import Outbox


@dataclass(frozen=True, slots=True)
class Fault:
    """A promise that is broken. `plant` changes the library in this process; `rules` are those that name it."""

    name: str
    plant: Callable[[Backend], None]
    rules: frozenset[str]


def _acknowledge_before_the_commit(_: Backend) -> None:
    make_known = Door.make_known
    begun: set[asyncio.Task[None]] = set()

    async def begin(self: Door, tasks: Sequence[LiveTask]) -> None:
        begun.add(asyncio.create_task(make_known(self, tasks)))

    Door.make_known = begin  # type: ignore[method-assign]  # the fault


def _fence_nothing(backend: Backend) -> None:
    """An instance that was taken over writes as before, and gets no error."""
    inner, beat = backend.apply, Heartbeat._beat  # the fault

    async def apply(changes: Sequence[Change]) -> list[Applied]:
        results = await inner([await _as_owner(backend, change) for change in changes])
        return [Applied(Outcome.APPLIED) if one.outcome is Outcome.STALE else one for one in results]

    async def always(self: Heartbeat) -> bool:
        await beat(self)
        return True

    async def nothing(*_: object) -> None: ...

    backend.apply = apply  # type: ignore[method-assign]  # the instance's own
    Writer._refuse_dead = nothing  # type: ignore[method-assign,assignment]
    Heartbeat._beat = always  # type: ignore[method-assign]
    Heartbeat.lease_holds = property(lambda self: True)  # type: ignore[method-assign,assignment]


async def _as_owner(backend: Backend, change: Change) -> Change:
    if isinstance(change, Update) and (stored := await backend.get(change.record.task_id)) is not None:
        record = msgspec.structs.replace(change.record, instance=stored.instance, token=stored.token)
        return Update(record)
    return change


def _leave_refused_commits(_: Backend) -> None:
    applied = LateCommits.applied

    def ignore_inserts(self: LateCommits, change: Change, stale: bool) -> None:
        if not isinstance(change, Insert):
            applied(self, change, stale)

    LateCommits.applied = ignore_inserts  # type: ignore[method-assign]  # the fault


def _lose_delays_at_takeover(backend: Backend) -> None:
    inner = backend.take_over

    async def take_over(*args: Any, **kwargs: Any) -> list[TaskRecord]:
        return [msgspec.structs.replace(record, run_at=None) for record in await inner(*args, **kwargs)]

    backend.take_over = take_over  # type: ignore[method-assign]  # the instance's own


def _run_tasks_of_failed_requests(_: Backend) -> None:
    Outbox.is_failure = lambda self, exc: False  # type: ignore[method-assign]  # the fault
    Outbox.fail = lambda self: None  # type: ignore[method-assign]
    Outbox.abandon = lambda self: None  # type: ignore[method-assign]


def _forget_in_a_drain(_: Backend) -> None:
    async def run(self: Drain) -> None:
        self._dispatcher.drain(self._control.set_aside)  # the fault
        self._dispatcher.close()

    Drain.run = run  # type: ignore[method-assign]


def _interrupt_in_a_drain_what_should_be_requeued(_: Backend) -> None:
    begin = Drain.begin

    def unasked(self: Drain) -> None:
        begin(self)
        for task in self._tasks:  # the fault
            config = replace(task.definition.config, requeue_on_interrupt=False)
            object.__setattr__(task.definition, "config", config)

    Drain.begin = unasked  # type: ignore[method-assign]


def _wait_a_minute_for_everything(_: Backend) -> None:
    def of_lease(lease: float, timeout: float | None = None) -> Limits:
        return Limits(operation=60.0, lock=60.0, idle=60.0)  # the fault

    Limits.of_lease = of_lease  # type: ignore[method-assign]


def _never_ring_again(_: Backend) -> None:
    async def nothing(self: Doorbells) -> None: ...

    Doorbells.tick = nothing  # type: ignore[method-assign]  # the fault


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("acknowledge before the commit", _acknowledge_before_the_commit, frozenset({"acknowledged is kept"})),
        Fault(
            "no fencing",
            _fence_nothing,
            frozenset({"every entry was claimed", "a timeline is legal", "one end is published"}),
        ),
        Fault("refused commit left in the ledger", _leave_refused_commits, frozenset({"refused never runs"})),
        Fault("delay lost at takeover", _lose_delays_at_takeover, frozenset({"a delay is kept"})),
        Fault(
            "failed request's task run",
            _run_tasks_of_failed_requests,
            frozenset({"a failed request's task never runs"}),
        ),
        Fault("drain that forgets", _forget_in_a_drain, frozenset({"a drain forgets nothing"})),
        Fault(
            "drain that interrupts what should be requeued",
            _interrupt_in_a_drain_what_should_be_requeued,
            frozenset({"what may run again does"}),
        ),
        Fault("lost messages are not sent again", _never_ring_again, frozenset({"everything ends"})),
        Fault("no time limits", _wait_a_minute_for_everything, frozenset({"every answer and every drain ends well"})),
    )
}
