"""When each release of the application was first seen, so that charts can mark it, and which instance had which."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta

from taskflow_otel.model.board import ReleaseMark

PREFIX = "release:"
"""What the keys of the settings begin with that hold the marks."""
RAN_PREFIX = "ran:"
"""The same for those that say which release an instance had, also after its end."""
_KEPT = timedelta(days=35)
"""As long as the figures of hours."""


def key_of(at: datetime, instance_id: str) -> str:
    """The key of the mark that an instance makes."""
    return f"{PREFIX}{int(at.timestamp() * 1e6)}:{instance_id}"


def ran_key(instance_id: str) -> str:
    """The key of the release that an instance has."""
    return f"{RAN_PREFIX}{instance_id}"


def ran_text(at: datetime, release: str) -> str:
    """What is stored there: when the instance started, and its release."""
    return f"{int(at.timestamp() * 1e6)}:{release}"


def ran_release(text: str) -> str | None:
    """The release in such a text; `None` if it is damaged."""
    return text.partition(":")[2] or None


def marks_of(stored: Mapping[str, str]) -> list[ReleaseMark]:
    """The marks, the oldest first; of those that several instances made for one release, the first."""
    found = sorted((at, release) for key, release in stored.items() if (at := _moment(key)) is not None)
    return [
        ReleaseMark(at, release)
        for number, (at, release) in enumerate(found)
        if number == 0 or found[number - 1][1] != release
    ]


def is_new(release: str, marks: list[ReleaseMark], running: Collection[str | None]) -> bool:
    """Whether a starting instance marks its release: it is not the newest that was marked, nor one that runs."""
    return not (marks and marks[-1].release == release) and release not in running


def outdated(stored: Mapping[str, str], now: datetime) -> list[str]:
    """The keys of marks that are older than what the charts show; the newest mark stays."""
    known = sorted(((at, key) for key in stored if (at := _moment(key)) is not None), reverse=True)
    return [key for at, key in known[1:] if at < now - _KEPT]


def forgotten(stored: Mapping[str, str], now: datetime) -> list[str]:
    """The keys of instances that started too long ago to be in what people look at."""
    starts = {key: _moment(text) for key, text in stored.items()}
    return [key for key, at in starts.items() if at is None or at < now - _KEPT]


def _moment(key: str) -> datetime | None:
    """The time in a key; `None` if it is damaged."""
    try:
        return datetime.fromtimestamp(int(key.removeprefix(PREFIX).partition(":")[0]) / 1e6, UTC)
    except (ValueError, OverflowError, OSError):
        return None
