"""One firing of a schedule: a task under a name that can be used only once, so that only one instance makes it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Protocol

from taskflow_otel.backends.base import Backend
from taskflow_otel.engine.builder import TaskBuilder
from taskflow_otel.engine.claims import Claimed, Claims
from taskflow_otel.engine.live import LiveTasks
from taskflow_otel.engine.membership import Membership
from taskflow_otel.engine.registry import TaskDefinition
from taskflow_otel.errors import QueueFullError
from taskflow_otel.model.board import Pause
from taskflow_otel.model.enqueue import EnqueueOptions
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.schedule import Schedule, ScheduleStatus, from_micros, micros
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import InstanceState, Source
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.identity import process_gone
from taskflow_otel.runtime.retrying import Backoff
from taskflow_otel.runtime.throttled_report import Outage
from taskflow_otel.runtime.timers import Timer

_TIDY_EVERY = 100
_TIDY_BEHIND = timedelta(hours=1)
_TIDY_BATCH = 1_000
_STARTUP_BUCKET = 10_000_000
BACKOFF = Backoff(first=1.0, longest=30.0)
"""Between two tries to do something for a schedule."""
RULE = "schedule-rule:"
"""Prefix of the settings that hold the last rule of each schedule, and since when it is valid."""


class ScheduleMeter(Protocol):
    """Counts what schedules do. Lateness is in seconds."""

    def declared(self, schedule: str) -> None: ...
    def fired(self, schedule: str, lateness: float) -> None: ...
    def missed(self, schedule: str, number: int) -> None: ...
    def failed(self, schedule: str) -> None: ...


class NoMeter:
    """Counts nothing."""

    def declared(self, schedule: str) -> None:
        """See `ScheduleMeter`."""

    def fired(self, schedule: str, lateness: float) -> None:
        """See `ScheduleMeter`."""

    def missed(self, schedule: str, number: int) -> None:
        """See `ScheduleMeter`."""

    def failed(self, schedule: str) -> None:
        """See `ScheduleMeter`."""


class Entry:
    """One schedule in this process."""

    def __init__(self, schedule: Schedule, definition: TaskDefinition, clock: Clock) -> None:
        self.schedule = schedule
        self.definition = definition
        # The length distinguishes the names of a schedule 'a' from those of a schedule 'a:1'.
        tail = f"{len(schedule.name)}:{schedule.name}:"
        self.prefix: str = f"schedule:{tail}"
        self.startup_prefix: str = f"startup:{tail}"
        self.payload: str | None = None
        self.next: datetime | None = None
        """The first firing time that is not handled yet; `None` until the past firings are known."""
        self.timer: Timer | None = None
        self.working = False
        self.pause: Pause | None = None
        self.rule_kept = False
        """The backend holds the current rule."""
        self.last: datetime | None = None
        self.last_task_id: str | None = None
        self.repeated_until: datetime | None = None
        """Firing times up to this one may occur a second time, because the clock was set back."""
        self.fired = 0
        self.missed = 0
        self.errors = 0
        self.last_error: str | None = None
        self.outage: Outage = Outage(clock)
        self._cached: tuple[tuple[object, ...], ScheduleStatus] | None = None

    @property
    def paused(self) -> bool:
        """Whether it does not fire until it is resumed."""
        return self.pause is not None

    @property
    def rule_text(self) -> str:
        """The rule, with its zone."""
        return f"{self.schedule.rule.text} {self.schedule.rule.timezone}"

    def name_of(self, moment: datetime) -> str:
        """The name of the firing at a moment; it can be used only once."""
        return f"{self.prefix}{micros(moment):020d}"

    def moment_of(self, name: str) -> datetime:
        """The firing time of a name."""
        return from_micros(int(name.removeprefix(self.prefix)[:20]))

    def status(self) -> ScheduleStatus:
        """The current status of the schedule."""
        next_run = None if self.paused else self.next
        key = (next_run, self.last, self.last_task_id, self.pause, self.missed, self.errors, self.last_error)
        # Metrics read every schedule each second, and few have changed.
        cached = self._cached
        if cached is not None and cached[0] == key:
            return cached[1]
        status = ScheduleStatus(
            name=self.schedule.name,
            func_name=self.definition.name,
            rule=self.schedule.rule.text,
            timezone=self.schedule.rule.timezone,
            next_run=next_run,
            last_run=self.last,
            last_task_id=self.last_task_id,
            paused=self.paused,
            catch_up=self.schedule.catch_up,
            overlap=self.schedule.overlap,
            missed=self.missed,
            errors=self.errors,
            last_error=self.last_error,
            paused_by=None if self.pause is None else self.pause.by,
            paused_since=None if self.pause is None else self.pause.since,
            paused_reason=None if self.pause is None else self.pause.reason,
        )
        self._cached = key, status
        return status


class Firing:
    """Makes the tasks of schedules. The greatest used name of a schedule holds the time of its last firing."""

    def __init__(
        self, backend: Backend, builder: TaskBuilder, claims: Claims, tasks: LiveTasks, membership: Membership
    ) -> None:
        self._backend = backend
        self._builder = builder
        self._claims = claims
        self._tasks = tasks
        self._membership = membership

    async def fire(self, entry: Entry, moment: datetime) -> tuple[bool, str | None]:
        """Fire for one firing time. Return whether this instance did it, and the unfinished run that prevented it.

        Raises the errors of `Claims.claim`, and `BackendError`.
        """
        blocked_by = await self._unfinished(entry) if entry.schedule.overlap == "skip" else None
        name = entry.name_of(moment)
        try:
            claimed = await self._claim(entry, name, moment, blocked_by)
        except QueueFullError:
            latest = await self._backend.latest_once(entry.prefix)
            if latest is None or latest[0] < name or entry.repeated_until is not None:
                raise
            # Another instance had room.
            entry.last = moment
            return False, None
        if entry.repeated_until is not None:
            if moment > entry.repeated_until:
                entry.repeated_until = None
            else:
                claimed = await self._claim_again(entry, name, moment, blocked_by, claimed)
        entry.last = moment
        entry.last_task_id = claimed.record.task_id if claimed.new else claimed.first or entry.last_task_id
        entry.fired += claimed.new
        return claimed.new, blocked_by

    async def keep_rule(self, entry: Entry, since: datetime) -> None:
        """Store the rule of a schedule, and since when it is valid: no earlier time is ever caught up by it."""
        await self._backend.put_setting(
            RULE + entry.schedule.name, json.dumps({"rule": entry.rule_text, "since": micros(since)})
        )
        entry.rule_kept = True

    async def tidy(self, entry: Entry) -> None:
        """Store the rule after its first firing; from time to time delete names that no instance needs any more."""
        if entry.fired and not entry.rule_kept and entry.last is not None:
            await self.keep_rule(entry, entry.last)
        if entry.fired >= _TIDY_EVERY and entry.last is not None:
            entry.fired = 0
            await self._backend.forget_once(entry.prefix, entry.name_of(entry.last - _TIDY_BEHIND), _TIDY_BATCH)

    async def fire_at_startup(self, entry: Entry, moment: datetime) -> str | None:
        """Run once for instances that start together: not if an instance that has done so is alive.

        Return the unfinished run that prevented it.
        """
        latest = await self._backend.latest_once(entry.startup_prefix)
        if latest is not None and await self._lives_elsewhere(latest[1]):
            return None
        blocked_by = await self._unfinished(entry) if entry.schedule.overlap == "skip" else None
        name = f"{entry.startup_prefix}{micros(moment) // _STARTUP_BUCKET * _STARTUP_BUCKET:020d}"
        claimed = await self._claim(entry, name, None, blocked_by)
        claimed = await self._claim_again(entry, name, None, blocked_by, claimed)
        return blocked_by if claimed.new else None

    async def fire_by_hand(self, entry: Entry) -> TaskRecord:
        """Run now, independently of the rule."""
        options = EnqueueOptions(tags={"schedule": entry.schedule.name})
        return await self._claims.enqueue(entry.definition, self._payload(entry), options, source=Source.MANUAL)

    async def _claim(self, entry: Entry, name: str, moment: datetime | None, blocked_by: str | None) -> Claimed:
        options = EnqueueOptions(tags={"schedule": entry.schedule.name}, run_at=moment)
        payload = self._payload(entry)
        return await self._claims.claim(entry.definition, payload, options, once=name, blocked_by=blocked_by)

    async def _claim_again(
        self, entry: Entry, name: str, moment: datetime | None, blocked_by: str | None, claimed: Claimed
    ) -> Claimed:
        """Use a name again, with a number: it was used before a restart, or before the clock was set back."""
        number = 0
        while not claimed.new and claimed.first is not None and not await self._lives_elsewhere(claimed.first):
            number += 1
            claimed = await self._claim(entry, f"{name}~{number}", moment, blocked_by)
        return claimed

    async def _lives_elsewhere(self, task_id: str) -> bool:
        """Whether another instance made a task and is alive."""
        record = await self._record(task_id)
        own = self._membership.instance
        maker = record.timeline[0].instance if record is not None and record.timeline else own.instance_id
        return maker != own.instance_id and any(
            instance.instance_id == maker
            and instance.state == InstanceState.ALIVE
            and not process_gone(instance, own.host)
            for instance in await self._backend.instances()
        )

    async def _unfinished(self, entry: Entry) -> str | None:
        """The id of a run of this schedule that has not ended."""
        prefixes = [entry.prefix, entry.startup_prefix] if entry.schedule.run_on_startup else [entry.prefix]
        latest = [await self._backend.latest_once(prefix) for prefix in prefixes]
        # If the clock was set back, the greatest name is not the latest run.
        for task_id in {entry.last_task_id, *(found[1] for found in latest if found is not None)} - {None}:
            record = await self._record(str(task_id))
            if record is not None and record.status is TaskStatus.REJECTED and record.duplicate_of is not None:
                record = await self._record(record.duplicate_of)
            if record is not None and not record.status.finished:
                return record.task_id
        return None

    async def _record(self, task_id: str) -> TaskRecord | None:
        return self._tasks.record(task_id) or await self._backend.get(task_id)

    def _payload(self, entry: Entry) -> str:
        if entry.payload is None:
            entry.payload = self._builder.encode(entry.definition, (), {})
        return entry.payload
