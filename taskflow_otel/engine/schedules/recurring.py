"""Recurring schedules: when each fires next, what happens to missed firings, and how errors are repeated."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import msgspec

from taskflow_otel.backends.base import Backend
from taskflow_otel.engine.registry import TaskDefinition
from taskflow_otel.engine.schedules.firing import BACKOFF, RULE, Entry, Firing, ScheduleMeter
from taskflow_otel.errors import BackendError, ConfigurationError, QueueFullError, UnknownScheduleError
from taskflow_otel.model.board import Pause
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.schedule import Every, Schedule, ScheduleStatus, due, from_micros, grace, micros
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.owned_tasks import OwnedTasks
from taskflow_otel.runtime.readable import Readable
from taskflow_otel.runtime.retrying import retrying
from taskflow_otel.runtime.timers import Timers

logger: logging.Logger = logging.getLogger("taskflow_otel.schedules")

PAUSED = "schedule-paused:"
_LONGEST_RETRY = timedelta(minutes=5)
_AT_ONCE = 20


class Scheduler:
    """Fires schedules on every instance at the same times; the backend decides which instance makes the task.

    A wait is one entry in the engine's timers. `patience`: seconds after which a firing that is not committed counts
    as an error; the wait for it continues.
    """

    def __init__(
        self,
        backend: Backend,
        firing: Firing,
        timers: Timers,
        clock: Clock,
        meter: ScheduleMeter,
        *,
        patience: float,
    ) -> None:
        self._backend = backend
        self._firing = firing
        self._timers = timers
        self._clock = clock
        self._meter = meter
        self._patience = patience
        self._entries: dict[str, Entry] = {}
        self._background = OwnedTasks(_log_error)
        self._changes = 0
        self._readable = Readable(logger)
        self._running = False

    def add(self, schedule: Schedule, definition: TaskDefinition) -> None:
        """Add a schedule; raises `ConfigurationError` if its name is taken."""
        if schedule.name in self._entries:
            raise ConfigurationError(
                f"there is already a schedule named {schedule.name!r}. Give one another name: schedule(name=...)"
            )
        entry = self._entries[schedule.name] = Entry(schedule, definition, self._clock)
        self._meter.declared(schedule.name)
        if self._running:
            self._spawn(self._bring_up([entry]))

    def names(self) -> frozenset[str]:
        """The names of all schedules."""
        return frozenset(self._entries)

    def statuses(self) -> list[ScheduleStatus]:
        """All schedules, by name. Callable from any thread."""
        entries = self._entries.copy()
        return [entries[name].status() for name in sorted(entries)]

    def start(self) -> None:
        """Start to fire; the state in the backend is read in the background."""
        self._running = True
        self._spawn(self._bring_up(list(self._entries.values())))

    @property
    def firing(self) -> int:
        """How many pieces of work are in progress."""
        return len(self._background)

    async def stop(self) -> None:
        """Fire no more."""
        self._running = False
        for entry in self._entries.values():
            self._disarm(entry)
        await self._background.stop()
        for entry in self._entries.values():
            entry.next = entry.repeated_until = None

    def abandon(self) -> None:
        """Forget everything after the event loop was closed without `stop`."""
        self._running = False
        self._background.abandon()
        for entry in self._entries.values():
            entry.timer = entry.next = entry.repeated_until = None
            entry.working = False

    async def run(self, name: str) -> TaskRecord:
        """Make one run now, independently of the rule; raises `UnknownScheduleError` and the errors of enqueueing."""
        return await self._firing.fire_by_hand(self._entry(name))

    async def set_paused(
        self, name: str, paused: bool, by: str | None = None, reason: str | None = None
    ) -> ScheduleStatus:
        """Pause or resume a schedule on all instances, permanently; raises `UnknownScheduleError`."""
        entry, now = self._entry(name), self._clock.now()
        stored = {"paused": paused, "since": micros(now), "by": by, "reason": reason}
        await self._backend.put_setting(PAUSED + name, json.dumps(stored))
        self._changes += 1
        self._apply_pause(entry, Pause(by, now, reason) if paused else None)
        return entry.status()

    async def refresh(self) -> None:
        """Read which schedules other instances have paused or resumed."""
        changes = self._changes
        stored = await self._backend.settings(PAUSED)
        for entry in self._entries.values():
            # A state that was read before a change made here is out of date.
            if entry.next is not None and changes == self._changes:
                self._apply_pause(entry, self._pause(entry, stored)[0])

    def clock_was_set(self) -> None:
        """React to a jump of the wall clock: set all waits again; after a large step back, let past times fire again.

        After a small step back, the schedules wait, so that a small correction does not repeat a firing.
        """
        now = self._clock.now()
        for entry in self._entries.values():
            # A schedule that is firing now sets its next time afterwards.
            if entry.next is not None and not entry.working:
                _follow_clock(entry, now)
                self._arm(entry)

    def _entry(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownScheduleError(name) from None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        # In an empty context: a firing starts its own trace.
        self._background.own(work, context=Context())

    def _apply_pause(self, entry: Entry, pause: Pause | None) -> None:
        was_paused, entry.pause = entry.paused, pause
        if entry.paused == was_paused:
            return
        if not entry.paused and entry.next is not None:
            entry.next = max(entry.next, entry.schedule.rule.after(self._clock.now()))
        self._arm(entry)

    def _arm(self, entry: Entry) -> None:
        self._disarm(entry)
        if self._running and not entry.paused and not entry.working and entry.next is not None:
            entry.timer = self._timers.at(entry.next, lambda: self._come(entry))

    @staticmethod
    def _disarm(entry: Entry) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None

    def _come(self, entry: Entry) -> None:
        entry.timer = None
        entry.working = True
        self._spawn(self._work(entry))

    async def _bring_up(self, entries: list[Entry]) -> None:
        """Find out when the schedules last fired, and continue from there."""
        stored: dict[str, str] = {}

        async def read_settings() -> None:
            stored.update(await self._backend.settings(PAUSED))
            stored.update(await self._backend.settings(RULE))

        if entries:
            await self._insist(entries[0], read_settings)
        for start in range(0, len(entries), _AT_ONCE):
            await asyncio.gather(*(self._begin(entry, stored) for entry in entries[start : start + _AT_ONCE]))

    async def _begin(self, entry: Entry, stored: dict[str, str]) -> None:
        latest: tuple[str, str] | None = None

        async def read_latest() -> None:
            nonlocal latest
            latest = await self._backend.latest_once(entry.prefix)

        await self._insist(entry, read_latest)
        rule, now = entry.schedule.rule, self._clock.now()
        entry.pause, since = self._pause(entry, stored)
        entry.next = rule.after(now)
        if latest is not None:
            entry.last, entry.last_task_id = entry.moment_of(latest[0]), latest[1]
            if _lies_ahead(entry, entry.last, now):
                entry.repeated_until = entry.last
            elif not entry.paused:
                holds_since = await self._rule_since(entry, stored, now)
                entry.next = rule.after(max(moment for moment in (entry.last, since, holds_since) if moment))
        self._arm(entry)
        if entry.schedule.run_on_startup and not entry.paused:
            await self._attempt(entry, partial(self._fire_at_startup, entry, now), now, rule.after(now))

    def _pause(self, entry: Entry, stored: dict[str, str]) -> tuple[Pause | None, datetime | None]:
        """The pause of a schedule, if it is paused, and when that was last changed."""
        key = PAUSED + entry.schedule.name
        return (self._readable.read(key, _pause, stored[key]) if key in stored else None) or (None, None)

    async def _rule_since(self, entry: Entry, stored: dict[str, str], now: datetime) -> datetime | None:
        """Since when the rule is valid; from now on, if the schedule last fired by another rule."""
        text = stored.get(RULE + entry.schedule.name)
        if text is None:
            return None
        rule = self._readable.read(RULE + entry.schedule.name, _rule, text)
        if rule is not None and rule[0] == entry.rule_text:
            entry.rule_kept = True
            return rule[1]
        await self._insist(entry, partial(self._firing.keep_rule, entry, now))
        return now

    async def _insist(self, entry: Entry, action: Callable[[], Awaitable[None]]) -> None:
        """Repeat an action until it succeeds."""
        await retrying(self._clock, action, backoff=BACKOFF, judge=lambda exc, _: self._failed(entry, exc))
        self._works(entry)

    async def _work(self, entry: Entry) -> None:
        try:
            while self._running and not entry.paused and entry.next is not None and entry.next <= self._clock.now():
                await self._catch_up(entry, entry.next)
        finally:
            entry.working = False
            _follow_clock(entry, self._clock.now())
            self._arm(entry)

    async def _catch_up(self, entry: Entry, first: datetime) -> None:
        """Handle the firing times from `first` to now; usually this is only one."""
        rule, now = entry.schedule.rule, self._clock.now()
        following = rule.after(first)
        moments, missed = [first], 0
        if following <= now or now - first > grace(following - first):
            moments, missed = await self._due(entry, first, now)
            following = rule.after(now)
        entry.next = following
        if missed:
            self._missed(entry, missed)
            logger.warning("the schedule %r missed %d firings up to %s", entry.schedule.name, missed, now.isoformat())
        for moment in moments:
            await self._attempt(entry, partial(self._fire, entry, moment), moment, following)
        try:
            await self._firing.tidy(entry)
        except BackendError as exc:
            self._failed(entry, exc)

    async def _due(self, entry: Entry, first: datetime, now: datetime) -> tuple[list[datetime], int]:
        rule, catch_up = entry.schedule.rule, entry.schedule.catch_up
        try:
            # This process may have been paused while others continued.
            if (latest := await self._backend.latest_once(entry.prefix)) is not None and entry.repeated_until is None:
                moment = entry.moment_of(latest[0])
                if first <= moment <= now:
                    first = rule.after(moment)
        except BackendError as exc:
            self._failed(entry, exc)
        if isinstance(rule, Every):
            return due(rule, catch_up, first, now)
        # Computing many dates takes long.
        return await asyncio.to_thread(due, rule, catch_up, first, now)

    async def _attempt(
        self, entry: Entry, action: Callable[[], Awaitable[None]], moment: datetime, following: datetime
    ) -> None:
        """Fire; repeat after errors, and give up when the next firing is due."""
        until = min(following, moment + _LONGEST_RETRY)

        async def fire() -> None:
            impatient = self._timers.after(
                self._patience,
                lambda: self._failed(entry, f"the backend has not committed a firing for {self._patience:g} s"),
            )
            try:
                await action()
            finally:
                impatient.cancel()

        def judge(exc: Exception, wait: float) -> None:
            self._failed(entry, exc)
            if self._clock.now() + timedelta(seconds=wait) >= until:
                raise exc

        try:
            await retrying(self._clock, fire, backoff=BACKOFF, judge=judge)
        except Exception:
            # `judge` has logged why.
            self._missed(entry, 1)
            logger.error("the schedule %r gave up its firing of %s", entry.schedule.name, moment.isoformat())
        else:
            self._works(entry)

    async def _fire(self, entry: Entry, moment: datetime) -> None:
        new, blocked_by = await self._firing.fire(entry, moment)
        if new and blocked_by is not None:
            self._missed(entry, 1)
            logger.info("the schedule %r did not run: its run %s has not ended", entry.schedule.name, blocked_by)
        elif new:
            self._meter.fired(entry.schedule.name, max(0.0, (self._clock.now() - moment).total_seconds()))

    async def _fire_at_startup(self, entry: Entry, moment: datetime) -> None:
        blocked_by = await self._firing.fire_at_startup(entry, moment)
        if blocked_by is not None:
            self._missed(entry, 1)
            logger.info(
                "the schedule %r did not run at the start: its run %s has not ended", entry.schedule.name, blocked_by
            )

    def _missed(self, entry: Entry, number: int) -> None:
        entry.missed += number
        self._meter.missed(entry.schedule.name, number)

    def _failed(self, entry: Entry, why: Exception | str) -> None:
        entry.errors += 1
        entry.last_error = str(why) or type(why).__name__
        self._meter.failed(entry.schedule.name)
        if entry.outage.failed():
            # For expected errors the message is enough.
            trace = None if isinstance(why, (str, BackendError, QueueFullError)) else why
            logger.error("the schedule %r could not fire: %s. Trying again.", entry.schedule.name, why, exc_info=trace)

    @staticmethod
    def _works(entry: Entry) -> None:
        if entry.outage.ended() is not None:
            logger.warning("the schedule %r fires again", entry.schedule.name)


def _log_error(exc: BaseException) -> None:
    logger.critical("a schedule ended with an error of the scheduler: %s", exc, exc_info=exc)


def _lies_ahead(entry: Entry, moment: datetime, now: datetime) -> bool:
    """Whether a moment that was near is now several firings ahead: the clock must have been set back."""
    rule = entry.schedule.rule
    gap = max(rule.after(now) - now, rule.after(moment) - moment)
    return moment - now > 2 * gap + timedelta(seconds=1)


def _follow_clock(entry: Entry, now: datetime) -> None:
    """After a large step back of the clock, let the times that occur again fire again."""
    if entry.next is not None and _lies_ahead(entry, entry.next, now):
        entry.repeated_until = max(entry.repeated_until or now, entry.last or now)
        entry.next = entry.schedule.rule.after(now)


def _pause(text: str) -> tuple[Pause | None, datetime]:
    """The pause of a schedule, if it is paused, and when that was last changed."""
    value = json.loads(text)
    since = from_micros(value["since"])
    # Earlier versions did not store who, and why.
    pause = msgspec.convert({"by": value.get("by"), "since": since, "reason": value.get("reason")}, Pause)
    return pause if value["paused"] else None, since


def _rule(text: str) -> tuple[str, datetime]:
    """The rule by which a schedule last fired, and since when it is valid."""
    value = json.loads(text)
    return value["rule"], from_micros(value["since"])
