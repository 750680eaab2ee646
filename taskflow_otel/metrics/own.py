"""What this process stores of its counts, and which versions of them others may know."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple, TypeVar

from taskflow_otel.backends.base import Backend
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.exporters.prometheus.values import Snapshot, merge, subtract
from taskflow_otel.metrics.books import COUNTS, TARGETS
from taskflow_otel.metrics.folding import MARKS, OWN
from taskflow_otel.metrics.stored import ID_LENGTH, Stored, beside, dump_counts, load_added, size_of
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.readable import Readable

T = TypeVar("T")

_SCRAPED = timedelta(minutes=1)
"""How old the stored time of the last scrape may become. It is replaced too if it is older than the stored counts: the
others must know of the exemplars that this process has shown."""


class Claim(NamedTuple):
    """A name for the target of this process, and the change of the table that gives it."""

    name: str
    before: str | None
    after: str


class OwnCounts:
    """The counts of this process under its key in the ledger, with a number for each version.

    `asked_at`: when its page was asked for the last time. The other arguments are those of `FleetMetrics`.
    """

    def __init__(
        self,
        exporter: PrometheusExporter,
        backend: Backend,
        clock: Clock,
        readable: Readable,
        *,
        instance_id: Callable[[], str],
        unpublished: Callable[[], Mapping[str, int]],
        asked_at: datetime,
    ) -> None:
        self._exporter = exporter
        self._backend = backend
        self._clock = clock
        self._readable = readable
        self._instance_id = instance_id
        self._unpublished = unpublished
        self.asked_at: datetime = asked_at
        self.source: str = uuid.uuid4().hex
        self.target: str = ""
        """The name of the target of this process."""
        self.settled: bool = False
        """The table of targets agrees about it."""
        self._instance: str | None = None
        """The id of this process when it last stored its counts, or tried to."""
        self._formerly: tuple[str, ...] = ()
        self._number = 0
        self._counted: dict[int, Snapshot] = {}
        """All counts of this process, by the number of each version that others may know: the stored one, and later."""
        self._without: dict[int, Snapshot] = {}
        """The same versions as they are stored: without the counts that are in a sum of dead instances."""
        self._folded_part: Snapshot = {}
        """The counts of this process that are in a sum of dead instances, because it was declared dead. They may
        include transitions that are in the ledger and not published yet."""
        self._in_sum: dict[str, int] = {}
        """See `Stored.in_sum`."""
        self.stored: Stored | None = None
        """The version in the ledger."""
        self.ahead: tuple[str, Stored] | None = None
        """A version that was shown without the ledger, as JSON and as an object, if it is newer than the one there."""
        self._aside: list[int] = []
        """The numbers of the last two versions that were made without the ledger, if they are newer than it."""

    @property
    def key(self) -> str:
        """The key of these counts."""
        return f"{COUNTS}{self.source}"

    @property
    def latest(self) -> Stored | None:
        """The newest version that others may know."""
        return self.stored if self.ahead is None else self.ahead[1]

    @property
    def ahead_text(self) -> dict[str, str]:
        """By the key: the version that is newer than the one of the ledger, if there is one."""
        return {} if self.ahead is None else {self.key: self.ahead[0]}

    async def finish(self) -> None:
        """Store the last counts, marked as final unless the outcome of a commit is unknown."""
        await self.store(final=not self._unpublished())

    def without_ledger(self) -> Stored:
        """A version of the current counts that is not stored. Once the others can read it, it becomes `ahead`."""
        counted, unpublished, now = self._exporter.snapshot(), dict(self._unpublished()), self._clock.now()
        rest = subtract(counted, self._folded_part)
        self._number += 1
        self._note(self._number, counted, rest)
        # The others read the files before the ledger, so a fold may take the one before the latest.
        self._aside.append(self._number)
        for number in self._aside[:-2]:
            self._counted.pop(number, None)
            self._without.pop(number, None)
        self._aside = self._aside[-2:]
        instance = self._instance or self._instance_id()
        return Stored(
            instance, self._formerly, self._number, now, unpublished, False, rest, self.target, now, dict(self._in_sum)
        )

    def is_newest(self, version: Stored) -> bool:
        """Whether no later version is stored."""
        return self.stored is None or self.stored.number < version.number

    def _note(self, number: int, counted: Snapshot, rest: Snapshot) -> None:
        """Keep a version, until one is known to be stored that is as new."""
        # In an outage they become many, and little changes from one to the next.
        previous = self._counted.get(next(reversed(self._counted), 0), {})
        counted = {name: _same(previous.get(name), children) for name, children in counted.items()}
        self._counted[number] = counted
        if self._folded_part:
            previous = self._without.get(next(reversed(self._without), 0), {})
            self._without[number] = {name: _same(previous.get(name), children) for name, children in rest.items()}
        else:
            self._without[number] = counted

    async def store(self, *, final: bool, claim: Claim | None = None) -> None:
        """Store the current counts; with a claim, together with the name of the target."""
        # No await between these, so that they belong to the same moment.
        counted, taken_at = self._exporter.snapshot(), self._clock.now()
        instance, unpublished = self._instance_id(), dict(self._unpublished())
        asked_at = max(self.asked_at, self._exporter.collected_at or self.asked_at)
        latest = self.stored
        if instance != self._instance:
            # Whether or not its counts could be stored since.
            if self._instance is not None:
                self._formerly = (*self._formerly, self._instance)
            self._instance = instance
            # Another process may have got the name of the target.
            self.settled = False
        same = latest is not None and (latest.instance, latest.final) == (instance, final)
        if latest is not None and same and claim is None and self.ahead is None:
            stale = latest.asked_at <= latest.taken_at < asked_at or asked_at - latest.asked_at > _SCRAPED
            if not stale and self._counted.get(latest.number) == counted:
                # An idle process need not encode anything.
                return
        self._number = number = self._number + 1
        # All lines of the other tasks are published by now.
        self._in_sum = {task_id: lines for task_id, lines in self._in_sum.items() if task_id in unpublished}
        new, counts = await self._encode(counted)
        target = self.target if claim is None else claim.name
        shown = Stored(
            instance, self._formerly, number, taken_at, unpublished, final, new, target, asked_at,
            dict(self._in_sum),
        )  # fmt: skip
        self._note(number, counted, new)
        expected: dict[str, str | None] = {self._mark: None if latest is None else OWN}
        if claim is not None and await self._write(expected, shown, counts, claim):
            self.target, self.settled = claim.name, True
        elif claim is not None or not await self._write(expected, shown, counts):
            shown = await self._store_anew(replace(shown, target=self.target), counted, counts)
        self._take(shown)

    def _take(self, shown: Stored) -> None:
        """Forget the versions before the one that is stored now."""
        self.stored = shown
        for versions in (self._counted, self._without):
            for number in [number for number in versions if number < shown.number]:
                del versions[number]
        if self.ahead is not None and self.ahead[1].number < shown.number:
            self.ahead, self._aside = None, []

    async def _store_anew(self, shown: Stored, counted: Snapshot, counts: str) -> Stored:
        """Store again after a refusal: an earlier write had succeeded without an answer, or this process was folded."""
        former = self._mark
        mark = (await self._backend.settings(former)).get(former)
        folded = mark != OWN and not (mark is None and self.stored is None)
        # If this fails, the next round starts here again: the name is new, or its counts are replaced.
        self.stored = None
        if folded:
            self._take_out(mark)
            # Before the next await, because it may be cancelled.
            self.source, self._counted, self._without = uuid.uuid4().hex, {}, {}
            self.ahead, self._aside = None, []
            new, counts = await self._encode(counted)
            shown = replace(shown, counts=new, in_sum=dict(self._in_sum))
            self._note(shown.number, counted, new)
        if not await self._write({self._mark: OWN if mark == OWN else None}, shown, counts):
            raise BackendUnavailableError("the stored metrics of this instance change too fast")
        if folded:
            await self._backend.put_setting(former, None)
        return shown

    def _take_out(self, mark: str | None) -> None:
        """Note which counts of this process are in a sum now: those that were stored, and those from the ledger."""
        folded = None if mark is None else self._readable.read(self._mark, load_added, mark)
        stored: Snapshot
        added: Snapshot
        lines: dict[str, int]
        if folded is None:
            # Its counts were final, or it was folded so long ago that the mark is gone.
            stored, added, lines = self._without[min(self._without)] if self._without else {}, {}, {}
        else:
            number, added, lines = folded
            stored = self._without.get(number, {})
        self._folded_part = merge([self._folded_part, stored, added])
        self._in_sum = self._in_sum | lines

    async def _encode(self, counted: Snapshot) -> tuple[Snapshot, str]:
        """The counts that are not in the sum of dead instances, also as JSON."""

        def encode() -> tuple[Snapshot, str]:
            rest = subtract(counted, self._folded_part)
            return rest, dump_counts(rest)

        return await beside(size_of(counted), encode)

    @property
    def _mark(self) -> str:
        return f"{MARKS}{self.source}"

    async def _write(
        self, expected: Mapping[str, str | None], shown: Stored, counts: str, claim: Claim | None = None
    ) -> bool:
        # Each process writes under its own name, so that a repeated write does no harm.
        size = len(counts) + ID_LENGTH * len(shown.unpublished)
        stored = await beside(size, lambda: shown.dump(counts))
        changes = {self._mark: OWN, self.key: stored}
        if claim is not None:
            # In one step, so that no other process gets the same name for another target.
            expected, changes = {**expected, TARGETS: claim.before}, {**changes, TARGETS: claim.after}
        return await self._backend.swap_settings(expected, changes)


def _same(before: T | None, now: T) -> T:
    return before if before is not None and before == now else now
