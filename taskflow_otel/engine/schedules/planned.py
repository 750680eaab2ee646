"""Runs planned for one moment: stored as settings until they are due, so that any instance can change them."""

from __future__ import annotations

import asyncio
import json
import logging
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import astuple
from opentelemetry import trace

from taskflow_otel.backends.base import Backend
from taskflow_otel.engine.builder import TaskBuilder
from taskflow_otel.engine.claims import Claims
from taskflow_otel.engine.queues import Queues
from taskflow_otel.engine.registry import TaskDefinition, TaskRegistry
from taskflow_otel.engine.schedules.firing import BACKOFF, ScheduleMeter
from taskflow_otel.errors import BackendError, ConfigurationError, QueueFullError, UnknownTaskError
from taskflow_otel.exporters.otel import spans
from taskflow_otel.model.enqueue import EnqueueOptions, checked_key, checked_moment, checked_tags
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.options import checked_priority, plain_name
from taskflow_otel.model.schedule import ScheduledRun, from_micros, micros
from taskflow_otel.model.trace import SpanRef
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.owned_tasks import OwnedTasks
from taskflow_otel.runtime.readable import Readable
from taskflow_otel.runtime.retrying import retrying
from taskflow_otel.runtime.throttled_report import Once, Outage
from taskflow_otel.runtime.timers import Timer, Timers

logger: logging.Logger = logging.getLogger("taskflow_otel.schedules")

LABEL = "schedule_once"
"""The `schedule` label of all planned runs: their keys would be too many label values."""

SEALED = (
    "the run %r of %r stays stored: its arguments are encrypted with a key that this process does not have. It runs "
    "once a process has the key: TaskManager(encrypt_args_key=...)"
)
_PREFIX = "run-at:"
_ONCE = "run-at:"
_SLICE = 200
_MAX_KEY = 200
_TIDY_BEHIND = timedelta(days=1)
_TIDY_BATCH = 500


@dataclass(slots=True)
class _Plan:
    """One stored run, as this process knows it."""

    key: str
    text: str
    run: ScheduledRun
    timer: Timer | None = None
    begun: bool = False


class PlannedRuns:
    """Plans, moves, cancels and starts single runs.

    Each run is one setting, `run-at:<run key>:<version>`. A later version replaces an earlier one, so there is no
    moment at which both or neither count. A run that is due is read again, and starts under a name that can be used
    only once.
    """

    def __init__(
        self,
        backend: Backend,
        builder: TaskBuilder,
        claims: Claims,
        registry: TaskRegistry,
        queues: Queues,
        timers: Timers,
        clock: Clock,
        meter: ScheduleMeter,
    ) -> None:
        self._backend = backend
        self._builder = builder
        self._claims = claims
        self._registry = registry
        self._queues = queues
        self._timers = timers
        self._clock = clock
        self._meter = meter
        self._plans: dict[str, _Plan] = {}
        self._background = OwnedTasks(_log_error)
        self._changes = 0
        self._unknown, self._sealed = Once(), Once()
        self._readable = Readable(logger)
        self._running = False

    def start(self) -> None:
        """Start runs that are due, as soon as `refresh` has read them."""
        self._running = True

    @property
    def firing(self) -> int:
        """How many pieces of work are in progress."""
        return len(self._background)

    async def stop(self) -> None:
        """Start no more runs."""
        self._running = False
        for plan in self._plans.values():
            if plan.timer is not None:
                plan.timer.cancel()
        self._plans.clear()
        await self._background.stop()

    def abandon(self) -> None:
        """Forget everything after the event loop was closed without `stop`."""
        self._running = False
        self._plans.clear()
        self._background.abandon()

    async def plan(
        self,
        definition: TaskDefinition,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        run_at: datetime,
        run_key: str | None,
        options: EnqueueOptions,
    ) -> ScheduledRun:
        """Store a run for a moment; it replaces a run planned under the same key.

        Raises `ConfigurationError`, `UnknownQueueError`, `TaskArgumentError`, `PersistenceError` and `BackendError`.
        """
        if options.delay is not None or options.eager is not None or options.session is not None:
            raise ConfigurationError("schedule_once takes run_at; delay, eager and session have no meaning with it")
        queue = None if options.queue is None else self._queues.get(options.queue).name
        task_id = new_task_id()
        run = ScheduledRun(
            run_key=_checked_run_key(task_id if run_key is None else run_key),
            func_name=definition.name,
            run_at=checked_moment("run_at", run_at),
            task_id=task_id,
            payload=self._builder.encode(definition, args, kwargs),
            tags=checked_tags(options.tags),
            priority=None if options.priority is None else checked_priority(options.priority),
            queue=queue,
            idempotency_key=checked_key(options.idempotency_key),
            planned_in=_current_span(),
        )
        earlier = await self._versions(run.run_key)
        number = max(earlier, default=0) + 1
        key, text = f"{_PREFIX}{run.run_key}:{number:08d}", _dump(run)
        await self._backend.put_setting(key, text)
        for _, (old, _text) in sorted(earlier.items()):
            await self._backend.put_setting(old, None)
            self._drop(old)
        self._take(key, text, run)
        return run

    async def cancel(self, run_key: str) -> bool:
        """Drop a planned run; return `False` if it does not exist or has begun. Raises `ConfigurationError`."""
        run_key = _checked_run_key(run_key)
        versions = await self._versions(run_key)
        for _, (key, _text) in sorted(versions.items()):
            await self._backend.put_setting(key, None)
            self._drop(key)
        return bool(versions)

    async def list(self) -> list[ScheduledRun]:
        """All planned runs of all instances, the next first."""
        newest: dict[str, tuple[int, str, str]] = {}
        for key, text in (await self._backend.settings(_PREFIX)).items():
            if (parsed := self._readable.read(key, _parse, key)) is not None:
                run_key, number = parsed
                newest[run_key] = max(newest.get(run_key, (0, "", "")), (number, key, text))
        runs = [self._readable.read(key, _load, run_key, text) for run_key, (_, key, text) in newest.items()]
        return sorted((run for run in runs if run is not None), key=lambda run: (run.run_at, run.run_key))

    async def refresh(self) -> None:
        """Read what other instances have planned, moved and cancelled."""
        changes = self._changes
        stored = await self._backend.settings(_PREFIX)
        if changes != self._changes:
            # This was read before a change made here, which triggers another read.
            return
        for key in [key for key, plan in self._plans.items() if stored.get(key) != plan.text]:
            self._drop(key)
        for position, (key, text) in enumerate(stored.items()):
            if key not in self._plans and (run := self._readable.read(key, _plan_of, key, text)) is not None:
                self._take(key, text, run)
            if position % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)

    async def tidy(self) -> None:
        """Delete the names of runs that began long ago."""
        before = micros(self._clock.now() - _TIDY_BEHIND)
        await self._backend.forget_once(_ONCE, f"{_ONCE}{before:020d}", _TIDY_BATCH)

    def _take(self, key: str, text: str, run: ScheduledRun) -> None:
        self._changes += 1
        if self._running:
            plan = self._plans[key] = _Plan(key, text, run)
            plan.timer = self._timers.at(run.run_at, lambda: self._come(plan))

    def _drop(self, key: str) -> None:
        self._changes += 1
        plan = self._plans.pop(key, None)
        if plan is not None and plan.timer is not None:
            plan.timer.cancel()

    def _come(self, plan: _Plan) -> None:
        plan.timer = None
        self._background.own(self._start(plan), context=Context())

    async def _start(self, plan: _Plan) -> None:
        """Start a run that is due; repeat after errors until it has begun or was cancelled."""
        outage = Outage(self._clock)

        def judge(exc: Exception, _wait: float) -> None:
            self._meter.failed(LABEL)
            if outage.failed():
                expected = isinstance(exc, (BackendError, QueueFullError))
                logger.error(
                    "the run %r could not be started: %s. Trying again.",
                    plan.run.run_key,
                    exc,
                    exc_info=None if expected else exc,
                )

        await retrying(self._clock, lambda: self._begin(plan), backoff=BACKOFF, judge=judge)

    async def _begin(self, plan: _Plan) -> None:
        if not plan.begun and not await self._claim(plan):
            return
        await self._backend.put_setting(plan.key, None)
        self._drop(plan.key)

    async def _claim(self, plan: _Plan) -> bool:
        """Make the task of a run that is due; return `False` if this process cannot, or the run was cancelled."""
        run = plan.run
        try:
            definition = self._registry.get(run.func_name)
        except UnknownTaskError as exc:
            if self._unknown.passes(run.func_name):
                logger.error("the run %r stays stored: %s", run.run_key, exc)
            return False
        if not self._builder.readable(run.payload):
            if self._sealed.passes(run.func_name):
                logger.error(SEALED, run.run_key, run.func_name)
            return False
        versions = await self._versions(run.run_key)
        if not versions or versions[max(versions)] != (plan.key, plan.text):
            self._drop(plan.key)
            return False
        options = EnqueueOptions(
            idempotency_key=run.idempotency_key,
            tags=run.tags,
            priority=run.priority,
            queue=run.queue,
            run_at=run.run_at,
        )
        once = f"{_ONCE}{micros(run.run_at):020d}:{run.task_id}"
        claimed = await self._claims.claim(
            definition, run.payload, options, once=once, task_id=run.task_id, cause=run.planned_in
        )
        plan.begun = True
        if claimed.new:
            self._meter.fired(LABEL, max(0.0, (self._clock.now() - run.run_at).total_seconds()))
        return True

    async def _versions(self, run_key: str) -> dict[int, tuple[str, str]]:
        """The stored settings of a run key, by version: key and text."""
        found = {}
        for key, text in (await self._backend.settings(f"{_PREFIX}{run_key}:")).items():
            parsed = self._readable.read(key, _parse, key)
            if parsed is not None and parsed[0] == run_key:
                found[parsed[1]] = (key, text)
        return found


def _log_error(exc: BaseException) -> None:
    logger.critical("a planned run ended with an error of the scheduler: %s", exc, exc_info=exc)


def _parse(key: str) -> tuple[str, int]:
    run_key, _, number = key.removeprefix(_PREFIX).rpartition(":")
    return run_key, int(number)


def _plan_of(key: str, text: str) -> ScheduledRun:
    return _load(_parse(key)[0], text)


def _dump(run: ScheduledRun) -> str:
    return json.dumps(
        {
            "func": run.func_name,
            "at": micros(run.run_at),
            "task": run.task_id,
            "payload": run.payload,
            "tags": run.tags,
            "priority": run.priority,
            "queue": run.queue,
            "key": run.idempotency_key,
        }
        | ({} if run.planned_in is None else {"span": list(astuple(run.planned_in))})
    )


def _load(run_key: str, text: str) -> ScheduledRun:
    stored = json.loads(text)
    return ScheduledRun(
        run_key=run_key,
        func_name=stored["func"],
        run_at=from_micros(stored["at"]),
        task_id=stored["task"],
        payload=stored["payload"],
        tags=stored["tags"],
        priority=stored["priority"],
        queue=stored["queue"],
        idempotency_key=stored["key"],
        planned_in=SpanRef(*stored["span"]) if "span" in stored else None,
    )


def _current_span() -> SpanRef | None:
    span = SpanRef()
    spans.store(trace.get_current_span().get_span_context(), span)
    return span if span.valid else None


def _checked_run_key(run_key: object) -> str:
    if not isinstance(run_key, str) or not 0 < len(run_key) <= _MAX_KEY or not run_key.isprintable():
        raise ConfigurationError(f"run_key must be a text of 1 to {_MAX_KEY} printable characters, not {run_key!r:.80}")
    return plain_name(run_key)
