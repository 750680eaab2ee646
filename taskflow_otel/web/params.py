"""Query strings converted into queries to the ledger; bad input gives 422 with an explanation."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypeAlias

from fastapi import Query
from pydantic.json_schema import SkipJsonSchema

from taskflow_otel.model.argument_filter import ArgumentFilter, read_argument_filter
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import Source
from taskflow_otel.runtime.clock import SYSTEM_CLOCK
from taskflow_otel.web.refusals import InvalidInput, is_storable

MAX_PAGE = 1_000
COUNT_LIMIT = 10_000  # if the number of tasks is not stored, counting stops here
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_LONGEST = 366 * 86_400
_TASK_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
_TRACE_ID = re.compile(r"[0-9a-f]{32}")

Absent: TypeAlias = SkipJsonSchema[None]
"""A parameter that may be left out; a query string cannot say `null`."""


def parse_moment(name: str, text: str, now: datetime) -> datetime:
    """Return the moment of `text`: an ISO 8601 time (UTC if it has no zone), or an age such as `6h`."""
    try:
        if age := _DURATION.fullmatch(text.strip()):
            return now - timedelta(seconds=float(age[1]) * _UNITS[age[2]])
        # An unescaped "+" in a query string arrives as a space.
        moment = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(
            name,
            f"{name} must be an ISO 8601 time (2026-01-31T12:00:00Z) or an age such as 30m, 6h or 7d, not {text!r}",
        ) from None


def parse_until(name: str, text: str, now: datetime) -> datetime:
    """Return a moment that is still to come: an ISO 8601 time, or a time from now such as `6h`. At most a year."""
    if age := _DURATION.fullmatch(text.strip()):
        end = now + timedelta(seconds=min(_LONGEST, float(age[1]) * _UNITS[age[2]]))
    else:
        end = parse_moment(name, text, now)
    if not now < end <= now + timedelta(seconds=_LONGEST):
        raise InvalidInput(name, f"{name} must be a moment of the next {_LONGEST // 86_400} days, not {text!r}")
    return end


def _range(
    since: str, first: str | None, until: str, last: str | None, now: datetime
) -> tuple[datetime | None, datetime | None]:
    """The two ends of a time range; answers 422 to one that cannot contain anything."""
    begin = None if first is None else parse_moment(since, first, now)
    end = None if last is None else parse_moment(until, last, now)
    if begin is not None and end is not None and begin >= end:
        raise InvalidInput(until, f"{until} ({last}) must be later than {since} ({first})")
    return begin, end


def parse_duration(name: str, text: str) -> float:
    """Return the seconds of `text`: a number of seconds, or a duration such as `500ms` or `2m`."""
    if not (given := _DURATION.fullmatch(text.strip() if text.strip()[-1:].isalpha() else f"{text.strip()}s")):
        raise InvalidInput(
            name, f"{name} must be a number of seconds, or a duration such as 500ms, 5s or 2m, not {text!r}"
        )
    return min(_LONGEST, float(given[1]) * _UNITS[given[2]])


def _span(shortest: str | None, longest: str | None) -> tuple[float | None, float | None]:
    """The two ends of a range of durations; answers 422 to one that cannot contain anything."""
    least = None if shortest is None else parse_duration("min_duration", shortest)
    most = None if longest is None else parse_duration("max_duration", longest)
    if least is not None and most is not None and least >= most:
        raise InvalidInput("max_duration", f"max_duration ({longest}) must be longer than min_duration ({shortest})")
    return least, most


def parse_tag(text: str) -> tuple[str, str | None]:
    """Return `key:value` (or `key=value`) as a pair; a bare `key` matches any value."""
    key, *value = re.split("[:=]", text, maxsplit=1)
    if not key:
        raise InvalidInput("tag", f"tag must be written key:value, or key alone for any value, not {text!r}")
    return key, value[0] if value else None


def task_filter(
    status: Annotated[TaskStatus | None, Query(description="Only tasks in this state.")] = None,
    func_name: Annotated[str | Absent, Query(description="Only tasks of this name.")] = None,
    func_name_prefix: Annotated[
        str | Absent, Query(description="Only tasks whose name begins with this text.", max_length=200)
    ] = None,
    queue: Annotated[str | Absent, Query(description="Only tasks of this queue.")] = None,
    tag: Annotated[str | Absent, Query(description="`key:value`, or `key` for any value.")] = None,
    source: Annotated[Source | None, Query(description="Only tasks of this source.")] = None,
    since: Annotated[
        str | Absent, Query(description="Created at or after: an ISO 8601 time, or an age (`6h`).")
    ] = None,
    until: Annotated[str | Absent, Query(description="Created before: an ISO 8601 time, or an age (`6h`).")] = None,
    ended_since: Annotated[
        str | Absent, Query(description="Ended at or after: an ISO 8601 time, or an age (`6h`).")
    ] = None,
    ended_until: Annotated[str | Absent, Query(description="Ended before: an ISO 8601 time, or an age (`6h`).")] = None,
    trace_id: Annotated[str | Absent, Query(description="Trace id, 32 hexadecimal digits.")] = None,
    fingerprint: Annotated[
        str | Absent, Query(description="Only tasks whose latest failure has this fingerprint, 16 hexadecimal digits.")
    ] = None,
    error: Annotated[str | Absent, Query(description="Part of the error or of its type.", max_length=200)] = None,
    min_duration: Annotated[
        str | Absent,
        Query(description="Only finished tasks that ran for at least this long: seconds, or `500ms`, `5s`, `2m`."),
    ] = None,
    max_duration: Annotated[
        str | Absent,
        Query(description="Only finished tasks that ran for less than this: seconds, or `500ms`, `5s`, `2m`."),
    ] = None,
    q: Annotated[str | Absent, Query(description="Part of the name, the error or the task id.", max_length=200)] = None,
) -> TaskQuery:
    """The filters of the task list, as a query without paging."""
    texts = {"func_name": func_name, "func_name_prefix": func_name_prefix, "queue": queue, "tag": tag, "error": error}
    for name, value in {**texts, "q": q}.items():
        if value is not None and not is_storable(value):
            raise InvalidInput(name, f"{name} must not contain a NUL character")
    if trace_id is not None and not _TRACE_ID.fullmatch(trace_id.lower()):
        raise InvalidInput("trace_id", f"trace_id must be 32 hexadecimal digits, not {trace_id!r}")
    if fingerprint is not None:
        check_fingerprint(fingerprint)
    now = SYSTEM_CLOCK.now()
    first, last = _range("since", since, "until", until, now)
    shortest, longest = _span(min_duration, max_duration)
    ended_first, ended_last = _range("ended_since", ended_since, "ended_until", ended_until, now)
    return TaskQuery(
        status=status,
        func_name=func_name,
        func_name_prefix=func_name_prefix or None,
        queue=queue,
        tag=None if tag is None else parse_tag(tag),
        source=source and source.value,
        since=first,
        until=last,
        ended_since=ended_first,
        ended_until=ended_last,
        trace_id=trace_id and trace_id.lower(),
        fingerprint=fingerprint,
        error=error or None,
        min_duration=shortest,
        max_duration=longest,
        q=q,
    )


def argument_filter(
    args: Annotated[
        str | Absent,
        Query(
            description='`name:value` of an argument, as the API shows it: `order:782`, `customer.name:"Ada L"`, a '
            "position in place of the name (`0:782`), or a value of any argument (`782`). Several with spaces between "
            "them must all match. No index contains arguments: one request looks through at most 2,000 of the tasks "
            "that the other filters select, newest first, for about a second, and `X-Next-Cursor` continues. Refused "
            "where arguments are not displayed.",
            max_length=1_000,
        ),
    ] = None,
) -> ArgumentFilter | None:
    """The filter of the task list by arguments."""
    if args is None:
        return None
    if not is_storable(args):
        raise InvalidInput("args", "args must not contain a NUL character")
    try:
        return read_argument_filter(args)
    except ValueError as error:
        raise InvalidInput("args", f"args: {error}") from None


def check_fingerprint(text: str) -> str:
    """The fingerprint of a failure; answers 422 to a text that cannot be one."""
    if not _FINGERPRINT.fullmatch(text):
        raise InvalidInput("fingerprint", f"fingerprint must be 16 hexadecimal digits, not {text!r}")
    return text


def page_cursor(
    cursor: Annotated[str | Absent, Query(description="`X-Next-Cursor` of the previous page.")] = None,
) -> str | None:
    """The cursor of a page: the id of the last task of the previous page."""
    if cursor is not None and not _TASK_ID.fullmatch(cursor):
        raise InvalidInput("cursor", f"cursor must be the X-Next-Cursor of an earlier answer, not {cursor!r}")
    return cursor
