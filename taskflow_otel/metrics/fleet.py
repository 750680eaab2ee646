"""The metrics of all instances that share a backend, added up: a scrape of any worker returns the fleet's totals.

Each instance stores its counts under its own key. An answer contains only stored counts: this instance stores its own,
then reads all, then shows the sum. So the later of two scrapes never shows less than the earlier one, no matter which
instances answer.

The counts of dead instances are folded into one sum. It also includes what the ledger shows of their last moments,
after they last stored their counts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

from taskflow_otel.backends.base import Backend
from taskflow_otel.engine.live import REFUSED
from taskflow_otel.errors import BackendError, BackendUnavailableError, IllegalTransitionError
from taskflow_otel.exporters.prometheus.exporter import OTHER, PrometheusExporter
from taskflow_otel.exporters.prometheus.values import Snapshot, capped, from_json, lasting, merge, subtract, to_json
from taskflow_otel.model.events import LifecycleEvent
from taskflow_otel.model.replay import replay
from taskflow_otel.model.status import Transition
from taskflow_otel.model.vocabulary import InstanceState
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.readable import Readable
from taskflow_otel.runtime.service import Service

T = TypeVar("T")

logger = logging.getLogger("taskflow_otel.metrics")

COUNTS = "metrics:"
"""Prefix of the keys for stored counts: one for each instance that is not folded yet, and `GONE`."""
GONE = f"{COUNTS}gone"
MARKS = "metrics-of:"
"""Prefix of the keys that say whether the counts of an instance are still its own: `OWN`, or what the fold added."""
OWN = "own"

INTERVAL = 1.0
_PATIENCE = 2.0
"""Seconds that a scrape waits for the backend, before it shows the latest known counts."""
_LONGEST_BACKOFF = 5.0
_PAUSE = 0.2
"""Seconds between two exchanges, for any number of scrapes."""
_OVERLAP = timedelta(seconds=5)
"""How far the clocks of the instances may differ, and how late a slow commit may be."""
_TAIL = 20_000
"""How many tasks of the ledger are read for the last moments of a dead instance."""
_LARGE = 20_000
"""Characters of JSON above which a thread encodes and decodes it: more than a millisecond of work."""
_ID_LENGTH = 40
_MARKS_KEPT = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Stored:
    """The stored data of one process: its counts at one moment, and the transitions that they do not include yet."""

    instance: str
    formerly: tuple[str, ...]
    """The former ids of this process; under each it was declared dead."""
    number: int
    taken_at: datetime
    unpublished: Mapping[str, int]
    """By task: how many timeline lines are counted, or `REFUSED`. For other tasks, all lines up to `taken_at`."""
    final: bool
    """The instance has stopped properly: these counts are complete."""
    counts: Snapshot

    def missed(self, event: LifecycleEvent, line: int) -> bool:
        """Whether a timeline line of a task belongs to this process and is not in these counts."""
        if event.instance != self.instance and event.instance not in self.formerly:
            return False
        published = self.unpublished.get(event.task_id)
        if published is None:
            return event.timestamp > self.taken_at
        return event.transition is not Transition.REJECTED if published == REFUSED else line >= published

    def dump(self, counts: str) -> str:
        """As JSON; `counts` is the JSON of the counts, which can be large."""
        about = {
            "instance": self.instance,
            "formerly": self.formerly,
            "number": self.number,
            "taken_at": self.taken_at.isoformat(),
            "unpublished": dict(self.unpublished),
            "final": self.final,
        }
        return f'{json.dumps(about)[:-1]}, "counts": {counts}}}'

    @classmethod
    def load(cls, text: str) -> Stored:
        """Read the output of `dump`; raises `ValueError` for anything else."""
        try:
            data = json.loads(text)
            return cls(
                data["instance"],
                tuple(data["formerly"]),
                data["number"],
                datetime.fromisoformat(data["taken_at"]),
                data["unpublished"],
                data["final"],
                from_json(data["counts"]),
            )
        except (KeyError, TypeError, AttributeError) as exc:
            raise ValueError(f"not the metrics of an instance: {exc}") from exc


class FleetMetrics(Service):
    """Exchanges counts with the other instances about once a second, and for each scrape.

    `instance_id`: returns the current id of this process. `unpublished`: see `Stored.unpublished`.
    """

    def __init__(
        self,
        exporter: PrometheusExporter,
        backend: Backend,
        clock: Clock,
        *,
        instance_id: Callable[[], str],
        unpublished: Callable[[], Mapping[str, int]],
        interval: float = INTERVAL,
    ) -> None:
        super().__init__("fleet-metrics", interval, clock, longest_backoff=_LONGEST_BACKOFF)
        self._exporter = exporter
        self._backend = backend
        self._clock = clock
        self._instance_id = instance_id
        self._unpublished = unpublished
        self._open = False
        self._source = uuid.uuid4().hex
        self._formerly: tuple[str, ...] = ()
        self._number = 0
        self._counted: dict[int, Snapshot] = {}
        """All counts of this process, by the number of each version that may be stored: the latest known, and later."""
        self._elsewhere: Snapshot = {}
        """The part of these counts that is in the sum of dead instances, because this process was declared dead."""
        self._shown: Stored | None = None
        self._known: dict[str, tuple[str, Stored]] = {}
        self._gone: tuple[str | None, Snapshot] = (None, {})
        self._peers: list[Snapshot] = []
        self._dead: list[str] = []
        self._readable = Readable(logger)
        self._alone = True
        self._exchanging = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self._last_exchange = float("-inf")

    async def introduce(self) -> None:
        """Store the counts, so that the other instances find this one even if it dies before its next exchange."""
        if not self._open:
            self._exchanging = asyncio.Lock()
        async with self._exchanging:
            await self._store(final=False)
        self._open = True

    async def start(self) -> None:
        """Read the counts of the others before the first scrape, and start the rounds."""
        await self.refresh()
        await super().start()

    async def tick(self) -> None:
        """Exchange counts; fold those of dead instances."""
        await asyncio.shield(self._ask())
        async with self._exchanging:
            await self._fold_dead()

    async def refresh(self) -> None:
        """Return once the page includes what all instances counted before this call.

        While the backend does not answer, the latest known counts are shown; a single process shows its current ones.
        """
        if not self._open:
            return
        exchange = self._ask()
        # Other callers may wait for the same exchange, so a cancelled caller does not end it.
        await asyncio.wait({exchange}, timeout=_PATIENCE)
        failed = not exchange.done() or exchange.cancelled() or exchange.exception() is not None
        if failed and self._alone:
            counted = self._exporter.snapshot()
            self._exporter.set_peers(self._peers, subtract(counted, self._elsewhere))

    def render(self, accept: str | None = None) -> tuple[bytes, str]:
        """Return body and content type for an `Accept` header; see `PrometheusExporter.render`."""
        return self._exporter.render(accept)

    async def finish(self) -> None:
        """Store the last counts, marked as final unless the outcome of a commit is unknown."""
        if not self._open:
            return
        self._open = False
        async with self._exchanging:
            await self._store(final=not self._unpublished())
        self._exporter.set_peers(())

    async def stop(self) -> None:
        """Stop the rounds, and a running exchange."""
        await super().stop()
        exchange, self._next = self._next, None
        if exchange is not None:
            exchange.cancel()
            await asyncio.gather(exchange, return_exceptions=True)

    def _ask(self) -> asyncio.Task[None]:
        """The next exchange that has not begun yet."""
        if self._next is None or self._next.done():
            self._next = asyncio.create_task(self._exchange(), name="taskflow-metrics-exchange")
            self._next.add_done_callback(_retrieve)
        return self._next

    async def _exchange(self) -> None:
        async with self._exchanging:
            if not self._alone:
                await self._clock.sleep(max(0.0, self._last_exchange + _PAUSE - self._clock.monotonic()))
            self._next = None
            self._last_exchange = self._clock.monotonic()
            await self._store(final=False)
            await self._load()

    async def _store(self, *, final: bool) -> None:
        # No await between these, so that they belong to the same moment.
        counted, taken_at = self._exporter.snapshot(), self._clock.now()
        instance, unpublished = self._instance_id(), self._unpublished()
        latest = self._shown
        if latest is not None and latest.instance != instance:
            self._formerly = (*self._formerly, latest.instance)
        shown_as = None if latest is None else (latest.instance, latest.final, self._counted.get(latest.number))
        if shown_as == (instance, final, counted):
            # An idle process need not encode anything.
            return
        new, counts = await self._encode(counted)
        self._number += 1
        shown = Stored(instance, self._formerly, self._number, taken_at, unpublished, final, new)
        self._counted[shown.number] = counted
        if not await self._write({self._mark: None if latest is None else OWN}, shown, counts):
            shown = await self._store_anew(shown, counted, counts)
        self._counted = {shown.number: counted}
        self._shown = shown

    async def _store_anew(self, shown: Stored, counted: Snapshot, counts: str) -> Stored:
        """Store again after a refusal: an earlier write had succeeded without an answer, or this process was folded."""
        mark = (await self._backend.settings(self._mark)).get(self._mark)
        if mark != OWN:
            self._elsewhere = self._folded(mark)
            await self._backend.put_setting(self._mark, None)
            self._source = uuid.uuid4().hex
            new, counts = await self._encode(counted)
            shown = replace(shown, counts=new)
        # If this fails, the next round starts here again: the name is new, or its counts are replaced.
        self._shown = None
        if not await self._write({self._mark: mark if mark == OWN else None}, shown, counts):
            raise BackendUnavailableError("the stored metrics of this instance change too fast")
        return shown

    def _folded(self, mark: str | None) -> Snapshot:
        """The counts of this process that are in the sum now: those that were stored, and those from the ledger."""
        if mark is None:
            # Its counts were final, or it was folded so long ago that the mark is gone.
            return next(iter(self._counted.values()), {})
        folded = self._readable.read(self._mark, _load_added, mark)
        if folded is None:
            # Like a mark that is gone.
            return next(iter(self._counted.values()), {})
        number, added = folded
        return merge([self._counted.get(number, {}), added])

    async def _encode(self, counted: Snapshot) -> tuple[Snapshot, str]:
        """The counts that are not in the sum of dead instances, also as JSON."""

        def encode() -> tuple[Snapshot, str]:
            rest = subtract(counted, self._elsewhere)
            return rest, _dump(rest)

        return await _beside(_size(counted), encode)

    @property
    def _mark(self) -> str:
        return f"{MARKS}{self._source}"

    async def _write(self, expected: Mapping[str, str | None], shown: Stored, counts: str) -> bool:
        # Each process writes under its own name, so that a repeated write does no harm.
        size = len(counts) + _ID_LENGTH * len(shown.unpublished)
        stored = await _beside(size, lambda: shown.dump(counts))
        changes = {self._mark: OWN, f"{COUNTS}{self._source}": stored}
        return await self._backend.swap_settings(expected, changes)

    async def _load(self) -> None:
        """Show the stored counts of all instances."""
        # In this order, because an instance is registered before it stores counts.
        stored = await self._backend.settings(COUNTS)
        alive = {one.instance_id for one in await self._backend.instances() if one.state == InstanceState.ALIVE}
        gone = stored.pop(GONE, None)
        if gone != self._gone[0]:
            summed = await _beside(len(gone or ""), lambda: self._readable.read(GONE, _load_sum, gone))
            self._gone = gone, summed or {}
        stored.pop(f"{COUNTS}{self._source}", None)
        known = {key: (text, await self._read(key, text)) for key, text in stored.items()}
        self._known = {key: (text, other) for key, (text, other) in known.items() if other is not None}
        others = [other for _, other in self._known.values()]
        living = [other.counts for other in others if other.instance in alive and not other.final]
        ended = [lasting(other.counts) for other in others if other.instance not in alive or other.final]
        self._alone = not living
        own = None if self._shown is None else self._shown.counts
        self._peers = [*living, *ended, self._gone[1]]
        self._exporter.set_peers(self._peers, own)
        self._dead = [key for key, (_, other) in self._known.items() if other.instance not in alive]

    async def _read(self, key: str, text: str) -> Stored | None:
        known = self._known.get(key)
        if known is not None and known[0] == text:
            return known[1]
        return await _beside(len(text), lambda: self._readable.read(key, Stored.load, text))

    async def _fold_dead(self) -> None:
        dead, self._dead = self._dead, []
        for key in dead:
            try:
                await self._fold(key)
            except BackendError:
                raise
            except Exception as exc:
                # An error of one must not prevent the others from being counted.
                logger.error("%s could not be added to the sum of the dead: %s", key, exc, exc_info=exc)
        if dead:
            await self._forget_marks()

    async def _fold(self, key: str) -> None:
        text, dead = self._known[key]
        added = {} if dead.final else await self._done_since(dead)
        parts = [self._gone[1], lasting(dead.counts), added]
        summed = await _beside(len(text), partial(_sum_up, parts, self._exporter.max_label_values))
        about = {"at": self._clock.now().isoformat(), "number": dead.number, "added": to_json(added)}
        mark = None if dead.final else json.dumps(about)
        changes = {GONE: summed, key: None, f"{MARKS}{key.removeprefix(COUNTS)}": mark}
        # If another instance was faster, or the dead one is alive, the next round sees it.
        if await self._backend.swap_settings({GONE: self._gone[0], key: text}, changes):
            self._gone = summed, await _beside(len(summed), partial(_load_sum, summed))

    async def _done_since(self, dead: Stored) -> Snapshot:
        """The counts of a dead instance that it had not stored, computed from the ledger."""
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
        return from_json(to_json(lasting(missing.snapshot())))

    async def _forget_marks(self) -> None:
        """Delete the marks of dead instances that would have come back by now if they lived."""
        for key, mark in (await self._backend.settings(MARKS)).items():
            at = None if mark == OWN else self._readable.read(key, _load_moment, mark)
            if at is not None and at + _MARKS_KEPT < self._clock.now():
                await self._backend.put_setting(key, None)


async def _beside(size: int, work: Callable[[], T]) -> T:
    """Do large work on a thread, so that it does not block the event loop."""
    return work() if size < _LARGE else await asyncio.to_thread(work)


def _size(counts: Snapshot) -> int:
    """The approximate number of JSON characters of the counts."""
    return 60 * sum(len(children) for children in counts.values())


def _sum_up(parts: Sequence[Snapshot], cap: int) -> str:
    return _dump(capped(merge(parts), cap, OTHER))


def _dump(counts: Snapshot) -> str:
    return json.dumps(to_json(counts), separators=(",", ":"))


def _load_sum(text: str | None) -> Snapshot:
    return {} if text is None else from_json(json.loads(text))


def _load_added(mark: str) -> tuple[int, Snapshot]:
    """Up to which number counts were added to the sum, and what was added of them."""
    data = json.loads(mark)
    return data["number"], from_json(data["added"])


def _load_moment(mark: str) -> datetime:
    """When a mark was made."""
    return datetime.fromisoformat(json.loads(mark)["at"]).astimezone(UTC)


def _retrieve(exchange: asyncio.Task[None]) -> None:
    """Mark a failure as seen, because the service reports it; log only unexpected errors."""
    if not exchange.cancelled() and (exc := exchange.exception()) is not None and not isinstance(exc, BackendError):
        logger.error("the metrics could not be exchanged: %s", exc, exc_info=exc)
