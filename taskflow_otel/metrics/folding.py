"""The counts of dead processes: added to the sum of their target, with what the ledger shows of their last moments."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import timedelta
from functools import partial

from taskflow_otel.backends.base import Backend
from taskflow_otel.errors import BackendError, IllegalTransitionError
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.exporters.prometheus.values import Snapshot, from_json, lasting, to_json
from taskflow_otel.metrics.books import COUNTS, TARGETS, Books, gone_key
from taskflow_otel.metrics.elsewhere import NOWHERE
from taskflow_otel.metrics.stored import ID_LENGTH, Stored, beside, load_counts, load_moment, sum_up
from taskflow_otel.metrics.targets import FIRST
from taskflow_otel.model.replay import replay
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.readable import Readable

logger: logging.Logger = logging.getLogger("taskflow_otel.metrics")

MARKS = "metrics-of:"
"""Prefix of the keys that say whether the counts of an instance are still its own: `OWN`, or what the fold added."""
OWN = "own"

_OVERLAP = timedelta(seconds=5)
"""How far the clocks of the instances may differ, and how late a slow commit may be."""
_TAIL = 20_000
"""How many tasks of the ledger are read for the last moments of a dead instance."""
_MARKS_KEPT = timedelta(hours=1)


class Folding:
    """Folds the dead of the books."""

    def __init__(
        self, books: Books, exporter: PrometheusExporter, backend: Backend, clock: Clock, readable: Readable
    ) -> None:
        self._books = books
        self._exporter = exporter
        self._backend = backend
        self._clock = clock
        self._readable = readable

    async def fold(self, dead: Collection[str], living: Collection[str], drop: Callable[[str], None]) -> None:
        """Fold the dead, by their keys; `living` are the names of targets with a process.

        `drop` is called with the key of each whose counts were in a file.
        """
        for key in dead:
            try:
                await self._fold(key, drop)
            except BackendError:
                raise
            except Exception as exc:
                # An error of one must not prevent the others from being counted.
                logger.error("%s could not be added to the sum of the dead: %s", key, exc, exc_info=exc)
        if dead:
            await self._forget_marks()
            await self._merge_vanished(living)

    async def _fold(self, key: str, drop: Callable[[str], None]) -> None:
        books = self._books
        text, dead = books.known[key][0], books.latest(key)
        added, lines = ({}, {}) if dead.final else await self._done_since(dead)
        table_text, table = books.table
        named = dead.target == FIRST or dead.target in table.names.values()
        name = dead.target if named else NOWHERE
        before, counts = books.sums.get(name, (None, {}))
        parts = [counts, lasting(dead.counts), added]
        summed = await beside(len(text), partial(sum_up, parts, self._exporter.max_label_values))
        about = {"at": self._clock.now().isoformat(), "number": dead.number, "added": to_json(added), "lines": lines}
        mark = None if dead.final else await beside(ID_LENGTH * len(lines), partial(json.dumps, about))
        expected: dict[str, str | None] = {gone_key(name): before, key: text}
        changes: dict[str, str | None] = {
            gone_key(name): summed,
            key: None,
            f"{MARKS}{key.removeprefix(COUNTS)}": mark,
        }
        if not named:
            # These counts leave their own place in the answer of the carrier: see `elsewhere`.
            table = replace(table, merged=table.merged + 1)
            expected[TARGETS], changes[TARGETS] = table_text, table.dump()
        # If another instance was faster, or the dead one is alive, the next round sees it.
        if await self._backend.swap_settings(expected, changes):
            books.sums[name] = summed, await beside(len(summed), partial(load_counts, summed))
            if not named:
                books.table = table.dump(), table
            if key in books.aside:
                drop(key)

    async def _done_since(self, dead: Stored) -> tuple[Snapshot, dict[str, int]]:
        """The counts of a dead instance that it had not stored, computed from the ledger; and their lines by task."""
        lines: dict[str, int] = {}
        missing = PrometheusExporter(buckets=self._exporter.buckets, max_label_values=self._exporter.max_label_values)
        records = await self._backend.changed_since(dead.taken_at - _OVERLAP, not_of="", limit=_TAIL)
        # A commit may have waited long for its answer when the counts were stored.
        for task_id in dead.unpublished.keys() - {record.task_id for record in records}:
            if (record := await self._backend.get(task_id)) is not None:
                records.append(record)
        for record in records:
            try:
                events = list(replay(record))
            except IllegalTransitionError as exc:
                logger.error("the timeline of task %s is invalid: %s", record.task_id, exc)
                continue
            for line, event in enumerate(events):
                if dead.missed(event, line):
                    missing.on_lifecycle(event)
                    lines[record.task_id] = line + 1
        return from_json(to_json(lasting(missing.snapshot()))), lines

    async def _merge_vanished(self, living: Collection[str]) -> None:
        """Add the sums of targets that vanished long ago to one sum, so that their number is bounded."""
        books = self._books
        for name in books.table[1].too_many(living):
            (text, table), (before, counts) = books.table, books.sums.get(NOWHERE, (None, {}))
            after = table.without(name)
            own, own_counts = books.sums.get(name, (None, {}))
            summed = sum_up([counts, own_counts], self._exporter.max_label_values)
            expected = {TARGETS: text, gone_key(NOWHERE): before, gone_key(name): own}
            changes = {TARGETS: after.dump(), gone_key(NOWHERE): summed, gone_key(name): None}
            if not await self._backend.swap_settings(expected, changes):
                return
            books.table = after.dump(), after
            books.sums[NOWHERE] = summed, load_counts(summed)

    async def _forget_marks(self) -> None:
        """Delete the marks of dead instances that would have come back by now if they lived."""
        for key, mark in (await self._backend.settings(MARKS)).items():
            at = None if mark == OWN else self._readable.read(key, load_moment, mark)
            if at is not None and at + _MARKS_KEPT < self._clock.now():
                await self._backend.put_setting(key, None)
