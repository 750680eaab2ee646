"""The metrics of all instances that share a backend, as one: any worker's scrape gives the fleet's totals.

Each instance stores what it has counted under a key of its own. An answer is made of what is stored and of nothing
else: this instance stores its counts, then reads everyone's, then shows the sum. Of two scrapes the later one
thus never shows less than the earlier one, whoever answers them.

What a dead instance has counted is folded into one sum, together with what the ledger knows it did after it last
stored its counts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
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
from taskflow_otel.runtime.service import Service

T = TypeVar("T")

logger = logging.getLogger("taskflow_otel.metrics")

COUNTS = "metrics:"
"""Begins the keys under which counts are stored: one for each instance that has not been folded, and `GONE`."""
GONE = f"{COUNTS}gone"
MARKS = "metrics-of:"
"""Begins the keys that say whether an instance's counts are still its own: `OWN`, or what was added when folded."""
OWN = "own"

INTERVAL = 1.0
_PATIENCE = 2.0
"""Seconds that a scrape waits for the backend, before it shows what was known last."""
_LONGEST_BACKOFF = 5.0
_PAUSE = 0.2
"""Seconds from one exchange to the next, however many scrapes ask for one."""
_OVERLAP = timedelta(seconds=5)
"""How far the clocks of the instances, and a slow commit, may be apart."""
_TAIL = 20_000
"""Tasks of the ledger looked at for what a dead instance did last."""
_LARGE = 20_000
"""Characters of JSON from which on they are written and read beside the event loop: more than a millisecond's work."""
_ID_LENGTH = 40
_MARKS_KEPT = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Stored:
    """What one process has stored: its counts at one moment, and which of its transitions they do not hold yet."""

    instance: str
    formerly: tuple[str, ...]
    """The ids under which this process went before, each until it was declared dead."""
    number: int
    taken_at: datetime
    unpublished: Mapping[str, int]
    """By task: how many lines of its timeline are counted, or `REFUSED`. Of others, those no later than `taken_at`."""
    final: bool
    """The instance has stopped in order: nothing comes after these counts."""
    counts: Snapshot

    def missed(self, event: LifecycleEvent, line: int) -> bool:
        """Whether a line of a task's timeline is this process's, and not part of these counts."""
        if event.instance != self.instance and event.instance not in self.formerly:
            return False
        told = self.unpublished.get(event.task_id)
        if told is None:
            return event.timestamp > self.taken_at
        return event.transition is not Transition.REJECTED if told == REFUSED else line >= told

    def dump(self, counts: str) -> str:
        """As JSON; `counts` is the JSON of the counts, of which there can be many."""
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
        """Read what `dump` has written; raises `ValueError` for anything else."""
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

    `instance_id`: of this process, at the moment. `unpublished`: see `Stored.unpublished`.
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
        """All that this process had counted, by the number of what may be stored: the latest known, and later ones."""
        self._elsewhere: Snapshot = {}
        """What of it is part of the sum of those that are gone: this process was taken for dead, or is a new life."""
        self._shown: Stored | None = None
        self._known: dict[str, tuple[str, Stored]] = {}
        self._gone: tuple[str | None, Snapshot] = (None, {})
        self._peers: list[Snapshot] = []
        self._dead: list[str] = []
        self._alone = True
        self._exchanging = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self._last_exchange = float("-inf")

    async def introduce(self) -> None:
        """Store the counts: what this instance does from now on is found again even if it dies before it tells."""
        if not self._open:
            self._exchanging = asyncio.Lock()
        async with self._exchanging:
            await self._store(final=False)
        self._open = True

    async def start(self) -> None:
        """Show what the others have counted from the first scrape on; start the rounds."""
        await self.refresh()
        await super().start()

    async def tick(self) -> None:
        """Exchange counts; fold those of dead instances."""
        await asyncio.shield(self._ask())
        async with self._exchanging:
            await self._fold_dead()

    async def refresh(self) -> None:
        """Return once everything is shown that was counted anywhere before this call.

        While the backend does not answer, what was known last is shown; of a process that is alone, its own present
        counts.
        """
        if not self._open:
            return
        exchange = self._ask()
        # Others may wait for the same exchange, so it does not end with the caller.
        await asyncio.wait({exchange}, timeout=_PATIENCE)
        failed = not exchange.done() or exchange.cancelled() or exchange.exception() is not None
        if failed and self._alone:
            counted = self._exporter.snapshot()
            self._exporter.set_peers(self._peers, subtract(counted, self._elsewhere))

    def render(self, accept: str | None = None) -> tuple[bytes, str]:
        """The body and content type that an `Accept` header asks for; see `PrometheusExporter.render`."""
        return self._exporter.render(accept)

    async def finish(self) -> None:
        """Store the last counts, as final ones unless a commit was left without an answer."""
        if not self._open:
            return
        self._open = False
        async with self._exchanging:
            await self._store(final=not self._unpublished())
        self._exporter.set_peers(())

    async def stop(self) -> None:
        """Stop the rounds, and an exchange under way."""
        await super().stop()
        exchange, self._next = self._next, None
        if exchange is not None:
            exchange.cancel()
            await asyncio.gather(exchange, return_exceptions=True)

    def _ask(self) -> asyncio.Task[None]:
        """The next exchange, which has not begun yet."""
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
        # Of one moment: nothing else runs between these.
        counted, taken_at = self._exporter.snapshot(), self._clock.now()
        instance, unpublished = self._instance_id(), self._unpublished()
        latest = self._shown
        if latest is not None and latest.instance != instance:
            self._formerly = (*self._formerly, latest.instance)
        shown_as = None if latest is None else (latest.instance, latest.final, self._counted.get(latest.number))
        if shown_as == (instance, final, counted):
            # Of an idle process nothing need be encoded.
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
        """Store what was refused: the first time had succeeded without an answer, or this process was folded."""
        mark = (await self._backend.settings(self._mark)).get(self._mark)
        if mark != OWN:
            self._elsewhere = self._folded(mark)
            await self._backend.put_setting(self._mark, None)
            self._source = uuid.uuid4().hex
            new, counts = await self._encode(counted)
            shown = replace(shown, counts=new)
        # Should this fail, the next round begins here again: the name is new, or its counts are replaced.
        self._shown = None
        if not await self._write({self._mark: mark if mark == OWN else None}, shown, counts):
            raise BackendUnavailableError("the metrics of this instance change hands too fast")
        return shown

    def _folded(self, mark: str | None) -> Snapshot:
        """What is part of the sum now: of what was counted here, what was stored then, and what the ledger added."""
        if mark is None:
            # Folded as final counts, or so long ago that the mark is gone.
            return next(iter(self._counted.values()), {})
        data = json.loads(mark)
        return merge([self._counted.get(data["number"], {}), from_json(data["added"])])

    async def _encode(self, counted: Snapshot) -> tuple[Snapshot, str]:
        """What of the counts is not part of the sum of those that are gone, also as JSON."""

        def encode() -> tuple[Snapshot, str]:
            rest = subtract(counted, self._elsewhere)
            return rest, _dump(rest)

        return await _beside(_size(counted), encode)

    @property
    def _mark(self) -> str:
        return f"{MARKS}{self._source}"

    async def _write(self, expected: Mapping[str, str | None], shown: Stored, counts: str) -> bool:
        # Under a name of its own from the first time on, so that writing it again does no harm.
        size = len(counts) + _ID_LENGTH * len(shown.unpublished)
        stored = await _beside(size, lambda: shown.dump(counts))
        changes = {self._mark: OWN, f"{COUNTS}{self._source}": stored}
        return await self._backend.swap_settings(expected, changes)

    async def _load(self) -> None:
        """Show what everyone has stored."""
        # In this order: an instance is known before it stores anything.
        stored = await self._backend.settings(COUNTS)
        alive = {one.instance_id for one in await self._backend.instances() if one.state == InstanceState.ALIVE}
        gone = stored.pop(GONE, None)
        if gone != self._gone[0]:
            self._gone = gone, await _beside(len(gone or ""), lambda: _load_sum(gone))
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
        try:
            return await _beside(len(text), lambda: Stored.load(text))
        except ValueError as exc:
            logger.error("%s cannot be read and is left out: %s", key, exc)
            return None

    async def _fold_dead(self) -> None:
        dead, self._dead = self._dead, []
        for key in dead:
            try:
                await self._fold(key)
            except BackendError:
                raise
            except Exception as exc:
                # What is wrong with one must not keep all others from being counted.
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
        # If another instance was faster, or the dead one is not dead, the next round sees what is so.
        if await self._backend.swap_settings({GONE: self._gone[0], key: text}, changes):
            self._gone = summed, await _beside(len(summed), partial(_load_sum, summed))

    async def _done_since(self, dead: Stored) -> Snapshot:
        """What the ledger says that a dead instance did, and had not stored."""
        missing = PrometheusExporter(buckets=self._exporter.buckets, max_label_values=self._exporter.max_label_values)
        records = await self._backend.changed_since(dead.taken_at - _OVERLAP, not_of="", limit=_TAIL)
        # A commit may have been without an answer for long when the counts were stored.
        for task_id in dead.unpublished.keys() - {record.task_id for record in records}:
            if (record := await self._backend.get(task_id)) is not None:
                records.append(record)
        for record in records:
            try:
                events = list(replay(record))
            except IllegalTransitionError as exc:
                logger.error("the timeline of task %s makes no sense: %s", record.task_id, exc)
                continue
            for line, event in enumerate(events):
                if dead.missed(event, line):
                    missing.on_lifecycle(event)
        return from_json(to_json(lasting(missing.snapshot())))

    async def _forget_marks(self) -> None:
        """Delete what was kept for instances that were taken for dead and would have said otherwise by now."""
        for key, mark in (await self._backend.settings(MARKS)).items():
            if mark != OWN and datetime.fromisoformat(json.loads(mark)["at"]) + _MARKS_KEPT < self._clock.now():
                await self._backend.put_setting(key, None)


async def _beside(size: int, work: Callable[[], T]) -> T:
    """Do what would keep the event loop for long on a thread."""
    return work() if size < _LARGE else await asyncio.to_thread(work)


def _size(counts: Snapshot) -> int:
    """About how many characters the counts make as JSON."""
    return 60 * sum(len(children) for children in counts.values())


def _sum_up(parts: Sequence[Snapshot], cap: int) -> str:
    return _dump(capped(merge(parts), cap, OTHER))


def _dump(counts: Snapshot) -> str:
    return json.dumps(to_json(counts), separators=(",", ":"))


def _load_sum(text: str | None) -> Snapshot:
    return {} if text is None else from_json(json.loads(text))


def _retrieve(exchange: asyncio.Task[None]) -> None:
    """Mark a failure as seen; the rounds of the service report it."""
    if not exchange.cancelled() and (exc := exchange.exception()) is not None and not isinstance(exc, BackendError):
        logger.error("the metrics could not be exchanged: %s", exc, exc_info=exc)
