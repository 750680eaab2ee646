"""Firing times: intervals, cron expressions in a time zone, and the data of a schedule."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Literal, Protocol, assert_never, get_args
from zoneinfo import ZoneInfo

from taskflow_otel.errors import ConfigurationError, MissingExtraError
from taskflow_otel.model.options import flag, plain_name, seconds
from taskflow_otel.model.plain import repr_of
from taskflow_otel.model.trace import SpanRef

CatchUp = Literal["skip", "latest", "all"]
Overlap = Literal["allow", "skip"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_SHORTEST = 0.001
_MOST_COUNTED = 2_000
MOST_CAUGHT_UP = 1_000
"""The most firings that `catch_up="all"` catches up; older ones count as missed."""

# Fields that croniter fills in at random or from a seed: each instance would compute other firing times.
_RANDOM_FIELD = re.compile(r"(?:^|[\s,])[rh](?![a-z])", re.IGNORECASE)


class Rule(Protocol):
    """A rule that gives the same firing times on every instance at any time."""

    @property
    def text(self) -> str:
        """The rule as text."""

    @property
    def timezone(self) -> str:
        """The name of its time zone."""

    def after(self, moment: datetime) -> datetime:
        """The first firing time after a moment, in UTC."""

    def until(self, moment: datetime) -> datetime | None:
        """The last firing time at or before a moment, in UTC, or `None`."""

    def count(self, first: datetime, last: datetime) -> int:
        """The number of firing times from `first` to `last`; a large number may be cut to a lower bound."""


class Every:
    """A fixed interval, counted from 1970 in UTC, so that all instances agree and a restart shifts nothing.

    Raises `ConfigurationError` for an interval of less than a millisecond.
    """

    timezone = "UTC"

    def __init__(self, every: float | timedelta) -> None:
        length = seconds("every", every, exclusive=True)
        if length < _SHORTEST:
            raise ConfigurationError(f"every must be at least {_SHORTEST:g} seconds, not {repr_of(every)}")
        self._step = timedelta(microseconds=round(length * 1_000_000))
        self.text: str = f"every {length:g} s"

    def after(self, moment: datetime) -> datetime:
        """See `Rule`."""
        return EPOCH + ((moment - EPOCH) // self._step + 1) * self._step

    def until(self, moment: datetime) -> datetime | None:
        """See `Rule`."""
        return EPOCH + (moment - EPOCH) // self._step * self._step

    def count(self, first: datetime, last: datetime) -> int:
        """See `Rule`; exact."""
        return (last - first) // self._step + 1


class Cron:
    """A cron expression on the wall clock of a zone: five fields, six with the seconds last, or an alias (`@daily`).

    A wall time that the clock skips fires once, at the next valid moment. A wall time that occurs twice fires once, the
    first time. Needs the extra `scheduler`.

    Raises `ConfigurationError` for a bad expression, one that never fires, or an unknown zone; and `MissingExtraError`.
    """

    def __init__(self, expression: str, timezone: str | ZoneInfo = "UTC") -> None:
        try:
            import croniter
        except ImportError as exc:
            raise MissingExtraError("cron=", "scheduler") from exc
        # It walks over naive wall times: given a zone, it would fire twice at a wall time that happens twice.
        self._iterator: Any = croniter.croniter
        self._no_date: Any = croniter.CroniterBadDateError
        self._zone = checked_zone(timezone)
        self.timezone: str = str(self._zone)
        self.text: str = self._checked(expression)
        self._expression = self.text
        try:
            self.after(EPOCH)
        except self._no_date:
            raise ConfigurationError(f"cron={expression!r} never fires: there is no such date") from None

    def _checked(self, expression: object) -> str:
        hint = (
            "Five fields (minute hour day month weekday), six with seconds as the last, or an alias such as @daily; "
            "for an interval use every="
        )
        if not isinstance(expression, str):
            raise ConfigurationError(f"cron must be a text, not {expression!r}. {hint}")
        expression = plain_name(expression)
        if _RANDOM_FIELD.search(expression):
            raise ConfigurationError(f"cron={expression!r} has a random field, which differs in each process")
        try:
            fields = self._iterator(expression, datetime(2000, 1, 1)).expanded  # noqa: DTZ001  # wall times are naive
        except self._no_date:
            return expression
        except (ValueError, TypeError, AttributeError, KeyError) as exc:
            raise ConfigurationError(f"cron={expression!r} is not a cron expression ({exc}). {hint}") from None
        if len(fields) > 6:
            raise ConfigurationError(f"cron={expression!r} has a field for years, which is not supported. {hint}")
        return expression

    def after(self, moment: datetime) -> datetime:
        """See `Rule`."""
        wall, repeated_until = self._wall(moment)
        walk = self._iterator(self._expression, wall if repeated_until is None else repeated_until - _SECOND)
        while True:
            instant = self._instant(walk.get_next(datetime))
            if instant > moment:
                return instant

    def until(self, moment: datetime) -> datetime | None:
        """See `Rule`."""
        wall, repeated_until = self._wall(moment)
        walk = self._iterator(self._expression, repeated_until or wall + _SECOND)
        try:
            while True:
                instant = self._instant(walk.get_prev(datetime))
                if instant <= moment:
                    return instant
        except self._no_date:
            return None

    def count(self, first: datetime, last: datetime) -> int:
        """See `Rule`; up to 2,000."""
        found = sum(1 for _ in islice(newest_first(self, last, first), _MOST_COUNTED))
        return max(1, found)

    def _wall(self, moment: datetime) -> tuple[datetime, datetime | None]:
        """The wall time at a moment; if it occurs for the second time, also the end of the repeated times."""
        local = moment.astimezone(self._zone)
        wall = local.replace(tzinfo=None, microsecond=0, fold=0)
        if not local.fold:
            return wall, None
        first = local.replace(fold=0)
        change = self._change(first.astimezone(UTC), moment.astimezone(UTC))
        return wall, change.replace(tzinfo=None) + (first.utcoffset() or timedelta())

    def _instant(self, wall: datetime) -> datetime:
        instant = wall.replace(tzinfo=self._zone).astimezone(UTC)
        if instant.astimezone(self._zone).replace(tzinfo=None) == wall:
            return instant
        # The clock skips this wall time. With the later offset it is before the skip, with the earlier one after it.
        before = wall.replace(tzinfo=self._zone, fold=1).astimezone(UTC)
        return self._change(before, instant)

    def _change(self, before: datetime, behind: datetime) -> datetime:
        """The first moment between the two that has the offset of the second one."""
        offset = behind.astimezone(self._zone).utcoffset()
        low, high = 0, -((before - behind) // _SECOND)
        while high - low > 1:
            middle = (low + high) // 2
            if (before + middle * _SECOND).astimezone(self._zone).utcoffset() == offset:
                high = middle
            else:
                low = middle
        return before.replace(microsecond=0) + high * _SECOND


def make_rule(every: float | timedelta | None, cron: str | None, timezone: str | ZoneInfo) -> Rule:
    """The rule of a schedule; raises `ConfigurationError`, and `MissingExtraError` if cron needs an extra."""
    if (every is None) == (cron is None):
        raise ConfigurationError("a schedule needs either every= (seconds or a timedelta) or cron=, and not both")
    if cron is not None:
        return Cron(cron, timezone)
    if str(checked_zone(timezone)) != "UTC":
        raise ConfigurationError("timezone has no effect on every=, which counts seconds. Use cron= for wall times.")
    assert every is not None
    return Every(every)


def checked_zone(zone: str | ZoneInfo) -> ZoneInfo:
    """The IANA time zone of a name, or `ConfigurationError`."""
    if isinstance(zone, ZoneInfo):
        return zone
    try:
        return ZoneInfo(plain_name(zone))
    except (KeyError, ValueError, OSError, TypeError, AttributeError):
        raise ConfigurationError(
            f"there is no time zone {zone!r}. Use an IANA name such as 'Europe/London' "
            "(if the system has no zone data: pip install tzdata)"
        ) from None


def newest_first(rule: Rule, until: datetime, first: datetime) -> Iterator[datetime]:
    """The firing times from `until` back to `first`."""
    moment = rule.until(until)
    while moment is not None and moment >= first:
        yield moment
        moment = rule.until(moment - timedelta(microseconds=1))


def grace(gap: timedelta) -> timedelta:
    """How late a firing may be before it counts as missed: a quarter of the interval, from 1 s to 1 min."""
    return min(timedelta(minutes=1), max(_SECOND, gap / 4))


def due(rule: Rule, catch_up: CatchUp, first: datetime, now: datetime) -> tuple[list[datetime], int]:
    """Divide the firing times from `first` to `now`: those that fire, oldest first, and the number of the others."""
    newest = rule.until(now)
    if newest is None or newest < first:
        return [], 0
    wanted = newest_first(rule, newest, first)
    match catch_up:
        case "latest":
            fired = [newest]
        case "all":
            fired = list(islice(wanted, MOST_CAUGHT_UP))
        case "skip":
            in_time = now - grace(rule.after(newest) - newest)
            late = newest < in_time
            fired = [] if late else [moment for moment in islice(wanted, MOST_CAUGHT_UP) if moment >= in_time]
        case _:
            assert_never(catch_up)
    return fired[::-1], max(0, rule.count(first, newest) - len(fired))


def micros(moment: datetime) -> int:
    """Whole microseconds since 1970."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def from_micros(number: int) -> datetime:
    """The moment of a number of microseconds since 1970, in UTC."""
    return EPOCH + timedelta(microseconds=number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A rule and its policies. The name is the identity on every instance."""

    name: str
    rule: Rule
    run_on_startup: bool = False
    catch_up: CatchUp = "skip"
    overlap: Overlap = "allow"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 0 < len(self.name) <= 200 or not self.name.isprintable():
            raise ConfigurationError(
                f"a schedule's name must be 1 to 200 printable characters, not {repr_of(self.name)}"
            )
        object.__setattr__(self, "name", plain_name(self.name))
        flag("run_on_startup", self.run_on_startup)
        for option, value, allowed in (
            ("catch_up", self.catch_up, get_args(CatchUp)),
            ("overlap", self.overlap, get_args(Overlap)),
        ):
            if value not in allowed:
                raise ConfigurationError(f"{option} must be one of {', '.join(allowed)}, not {repr_of(value)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleStatus:
    """The current status of a schedule. Times are in UTC; `missed` and `errors` count since this process started."""

    name: str
    func_name: str
    rule: str
    timezone: str
    next_run: datetime | None
    """`None` while the schedule is paused or the manager is not running."""
    last_run: datetime | None
    """The latest firing time on any instance."""
    last_task_id: str | None
    paused: bool
    catch_up: CatchUp
    overlap: Overlap
    missed: int
    errors: int
    last_error: str | None
    paused_by: str | None = None
    """Who paused it; `None` if it is not known, or not paused."""
    paused_since: datetime | None = None
    paused_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRun:
    """A run that `schedule_once` planned and that has not begun."""

    run_key: str
    func_name: str
    run_at: datetime
    task_id: str
    """The id that the task will have."""
    payload: str = field(repr=False, default="")
    """The encoded arguments, as ciphertext if encryption is on."""
    tags: dict[str, str] = field(default_factory=dict)
    priority: int | None = None
    queue: str | None = None
    idempotency_key: str | None = None
    planned_in: SpanRef | None = field(repr=False, default=None)
    """The span in which it was planned, such as that of a request."""

    @property
    def fire_at(self) -> datetime:
        """Another name of `run_at`."""
        return self.run_at

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON data, without arguments; the time in ISO 8601 (UTC)."""
        return {
            "run_key": self.run_key,
            "func_name": self.func_name,
            "fire_at": self.run_at.isoformat(),
            "task_id": self.task_id,
            "queue": self.queue,
            "priority": self.priority,
            "idempotency_key": self.idempotency_key,
            "tags": dict(self.tags),
        }
