"""Refused attempts that are alike: the first ones are kept one by one, the others are counted."""

from __future__ import annotations

from msgspec.structs import replace

from taskflow_otel.model.audit import AuditEntry
from taskflow_otel.runtime.clock import Clock

_SINGLY = 10
"""Attempts of one kind in one window that get an entry of their own."""
_WINDOW = 60.0
_MAX_KINDS = 500

_Kind = tuple[str | None, str, int]


class Repeats:
    """Limits how many entries the attempts of strangers can make: each kind 10 a minute, and one with the number."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[_Kind, int] = {}
        self._counted: dict[_Kind, AuditEntry] = {}
        self._ends = 0.0

    def passes(self, entry: AuditEntry) -> bool:
        """Whether the entry is kept by itself; otherwise it is counted, and `summed_up` has it later."""
        kind = (entry.client, entry.action, entry.status)
        if kind not in self._seen and len(self._seen) >= _MAX_KINDS:
            kind = (None, entry.action, entry.status)
        if not self._seen:
            self._ends = self._clock.monotonic() + _WINDOW
        self._seen[kind] = number = self._seen.get(kind, 0) + 1
        if number <= _SINGLY:
            return True
        latest = entry if kind[0] is not None else replace(entry, client=None)
        self._counted[kind] = replace(latest, times=number - _SINGLY)
        return False

    def summed_up(self, *, at_once: bool = False) -> list[AuditEntry]:
        """The entries about what was counted: empty until the window has ended, unless `at_once`."""
        if not self._seen or (not at_once and self._clock.monotonic() < self._ends):
            return []
        counted = list(self._counted.values())
        self._seen.clear()
        self._counted.clear()
        return counted
