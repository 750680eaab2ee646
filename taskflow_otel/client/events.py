"""The live stream as events: Server-Sent Events (WHATWG HTML, section 9.2), parsed from bytes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_LINE_END = re.compile(rb"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Event:
    """One change.

    `kind`: `task` (some fields of a task that changed), `progress`, `log`, `begin` (a new stream), or `reset` (changes
    were missed, so read again what you show). `id`: continue after this event with `after=`.
    """

    kind: str
    data: dict[str, Any]
    id: str | None


class EventParser:
    """Makes events of the bytes of a stream, however they are cut.

    `last_id` is the id to continue after; `retry` the seconds to wait before a reconnection, if the server says so.
    """

    def __init__(self, last_id: str | None = None) -> None:
        self.last_id = last_id
        self.retry: float | None = None
        self._rest = b""
        self._after_return = False
        self._kind = ""
        self._data: list[str] = []
        self._id = last_id
        """Not yet `last_id`: its event may still be cut off."""

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that are complete with these bytes."""
        if not chunk:
            return []
        if self._after_return:
            # The second half of a line end that was cut.
            chunk = chunk.removeprefix(b"\n")
        self._after_return = chunk.endswith(b"\r")
        *lines, self._rest = _LINE_END.split(self._rest + chunk)
        found = [self._line(line.decode("utf-8", "replace")) for line in lines]
        return [event for event in found if event is not None]

    def reconnect(self) -> None:
        """Forget the event that was cut off by the end of a connection."""
        self._rest, self._after_return, self._kind, self._data = b"", False, "", []
        self._id = self.last_id

    def _line(self, line: str) -> Event | None:
        if not line:
            return self._complete()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._kind = value
            case "data":
                self._data.append(value)
            case "id" if "\x00" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdecimal():
                self.retry = int(value) / 1000
            case _:
                # A comment, or a field of a later version.
                pass
        return None

    def _complete(self) -> Event | None:
        kind, data = self._kind or "message", self._data
        self._kind, self._data, self.last_id = "", [], self._id
        return Event(kind, json.loads("\n".join(data)), self.last_id) if data else None
