"""The metrics of the workers behind one port, added up: a scrape of any of them returns the totals of all.

Each process stores its counts under its own key. An answer contains only stored counts: this process stores its own,
then reads all, then shows the sum of those of its target. So the later of two scrapes never shows less than the earlier
one, no matter which worker answers.

The counts of dead workers are folded into one sum for each target. It also includes what the ledger shows of their last
moments, after they last stored their counts. What no scraped target shows, one of them shows too: see `Elsewhere`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from taskflow_otel.backends.base import Backend
from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.exporters.prometheus.values import (
    Elsewhere,
    Histogram,
    LabelValues,
    Snapshot,
    lasting,
    merge,
    subtract,
)
from taskflow_otel.metrics.aside import Aside
from taskflow_otel.metrics.books import COUNTS, TARGETS, Books
from taskflow_otel.metrics.elsewhere import Scene, elsewhere_of
from taskflow_otel.metrics.folding import MARKS, OWN, Folding
from taskflow_otel.metrics.stored import (
    ID_LENGTH,
    Stored,
    beside,
    dump_counts,
    load_added,
    size_of,
)
from taskflow_otel.metrics.targets import process_address
from taskflow_otel.model.query import Instance
from taskflow_otel.model.vocabulary import InstanceState
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.identity import host_identity, process_gone
from taskflow_otel.runtime.readable import Readable
from taskflow_otel.runtime.service import Service

logger: logging.Logger = logging.getLogger("taskflow_otel.metrics")

INTERVAL = 1.0
_PATIENCE = 2.0
"""Seconds that a scrape waits for the backend, before it shows the latest known counts."""
_IMPATIENCE = 0.2
"""The same, if the backend did not answer the last time."""
_LONGEST_BACKOFF = 5.0
_PAUSE = 0.2
"""Seconds between two exchanges, for any number of scrapes."""
_SCRAPED = timedelta(minutes=1)
"""How old the stored time of the last scrape may become. It is replaced too if it is older than the stored counts: the
others must know of the exemplars that this process has shown."""
_NEVER = datetime(2000, 1, 1, tzinfo=UTC)
_TRIES = 5


class _Claim(NamedTuple):
    """A name for the target of this process, and the change of the table that gives it."""

    name: str
    before: str | None
    after: str


class FleetMetrics(Service):
    """Exchanges counts with the other instances about once a second, and for each scrape.

    `instance_id`: returns the current id of this process. `unpublished`: see `Stored.unpublished`. `address`: returns
    the address of its target, see `target_address`.
    """

    def __init__(
        self,
        exporter: PrometheusExporter,
        backend: Backend,
        clock: Clock,
        *,
        instance_id: Callable[[], str],
        unpublished: Callable[[], Mapping[str, int]],
        address: Callable[[], str],
        interval: float = INTERVAL,
    ) -> None:
        super().__init__("fleet-metrics", interval, clock, longest_backoff=_LONGEST_BACKOFF)
        self._exporter = exporter
        self._backend = backend
        self._clock = clock
        self._instance_id = instance_id
        self._unpublished = unpublished
        self._address = address
        self._without_page = False
        self._open = False
        self._readable = Readable(logger)
        self._exchanging = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self._process = 0
        self._become_new()

    def leave_to_others(self) -> None:
        """This process serves no page: the others show its counts from its first one on."""
        self._without_page, self._asked_at = True, _NEVER

    def _become_new(self) -> None:
        """Forget everything that belongs to another process: the parent of a fork."""
        self._source = uuid.uuid4().hex
        self._host = host_identity()
        self._target = ""
        self._settled = False
        """The table of targets agrees about the target of this process."""
        self._claim: _Claim | None = None
        self._instance: str | None = None
        """The id of this process when it last stored its counts, or tried to."""
        self._formerly: tuple[str, ...] = ()
        self._number = 0
        self._counted: dict[int, Snapshot] = {}
        """All counts of this process, by the number of each version that may be stored: the latest known, and later."""
        self._without: dict[int, Snapshot] = {}
        """The same versions as they are stored: without the counts that are in a sum of dead instances."""
        self._folded_part: Snapshot = {}
        """The counts of this process that are in a sum of dead instances, because it was declared dead. They may
        include transitions that are in the ledger and not published yet."""
        self._in_sum: dict[str, int] = {}
        """See `Stored.in_sum`."""
        self._shown: Stored | None = None
        self._asked_at = _NEVER if self._without_page else self._clock.now()
        self._asked = False
        self._books = Books(self._readable)
        self._folding = Folding(self._books, self._exporter, self._backend, self._clock, self._readable)
        self._members: dict[str, tuple[Stored, bool]] = {}
        """The other workers of this target, by their keys, and whether each lives."""
        self._sum: Snapshot = {}
        """The counts of the dead of this target who are no members any more. Members, sum and `_elsewhere` are
        of one moment: a page with parts of several could show counts twice."""
        self._neighbours = False
        """All of them are on this host."""
        self._aside = Aside("")
        self._set_aside = False
        """The counts of this process are in a file."""
        self._elsewhere: Elsewhere | None = None
        self._dead: list[str] = []
        self._alone = True
        self._answers = True
        self._last_exchange = float("-inf")
        self._next = None

    async def introduce(self) -> None:
        """Store the counts, so that the other instances find this one even if it dies before its next exchange."""
        if self._process != os.getpid():
            self._become_new()
            self._process, self._open = os.getpid(), False
        if not self._open:
            self._exchanging = asyncio.Lock()
        async with self._exchanging:
            await self._store(final=False)
        self._open = True

    async def start(self) -> None:
        """Read the counts of the others before the first scrape, and start the rounds."""
        await self._wait_for(self._ask(), _PATIENCE)
        await super().start()

    async def tick(self) -> None:
        """Exchange counts; fold those of dead instances."""
        await asyncio.shield(self._ask())
        async with self._exchanging:
            dead, self._dead = self._dead, []
            living = {other.target for _, other in self._books.known.values()} | {self._target}
            await self._folding.fold(dead, living, lambda key: self._aside.drop(key.removeprefix(COUNTS)))

    async def refresh(self) -> None:
        """Return once the page includes what all workers of this target counted before this call.

        While the backend does not answer, the latest known counts are shown; a single worker shows its current ones.
        """
        if not self._open:
            return
        self._asked, self._asked_at = True, self._clock.now()
        self._answers = await self._wait_for(self._ask(), _PATIENCE if self._answers else _IMPATIENCE)
        if not self._answers:
            await self._show_without_ledger()

    async def _show_without_ledger(self) -> None:
        """Show the current counts of this process, with those of its siblings as their files or the ledger had them."""
        if not (self._alone or self._neighbours):
            # Workers on other hosts cannot see these counts: their answers would show less.
            return
        counted, unpublished = self._exporter.snapshot(), self._unpublished()
        rest = subtract(counted, self._folded_part)
        if not self._alone and self._shown is not None:
            self._number += 1
            self._counted[self._number], self._without[self._number] = counted, rest
            now = self._clock.now()
            aside = replace(
                self._shown, number=self._number, taken_at=now, unpublished=unpublished, counts=rest, asked_at=now
            )
            written = await asyncio.to_thread(lambda: self._aside.put(self._source, aside.dump(dump_counts(rest))))
            if not written:
                return
            self._set_aside = True
            self._books.compare(await asyncio.to_thread(self._aside.read))
        self._show(rest)

    @staticmethod
    async def _wait_for(exchange: asyncio.Task[None], timeout: float) -> bool:
        """Wait for an exchange; return whether it succeeded. It continues: other callers may wait for it too."""
        await asyncio.wait({exchange}, timeout=timeout)
        return exchange.done() and not exchange.cancelled() and exchange.exception() is None

    def of_all(self, metric: str) -> dict[LabelValues, float]:
        """A gauge over all living instances, of every target: this one now, the others as of their last exchange."""
        own = self._exporter.snapshot().get(metric, {})
        dead = set(self._dead)
        others = [one.counts.get(metric, {}) for key, (_, one) in self._books.known.items() if key not in dead]
        merged = merge([{metric: dict(part)} for part in (own, *others)])[metric]
        return {labels: value for labels, value in merged.items() if not isinstance(value, Histogram)}

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
            await self._take_back()
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
            # Before the ledger: a worker deletes its file once the ledger has its counts.
            aside = await asyncio.to_thread(self._aside.read) if self._aside.there else {}
            await self._settle()
            await self._store(final=False)
            await self._load(aside)
            await self._take_back()

    async def _settle(self) -> None:
        """Find the target of this process, and store its name together with the counts."""
        for _ in range(_TRIES):
            address = "" if self._settled else self._address() or (process_address() if self._asked else "")
            if not address:
                return
            await self._books.read(await self._backend.settings(COUNTS), self._key)
            alive = self._living(await self._backend.instances())
            others = (other for _, other in self._books.known.values())
            names = {other.target for other in others if other.instance in alive and not other.final}
            text, table = self._books.table
            claimed = table.claim(address, names)
            self._aside = Aside(address)
            self._claim = _Claim(claimed.names[address], text, claimed.dump())
            await self._store(final=False)

    async def _store(self, *, final: bool) -> None:
        # No await between these, so that they belong to the same moment.
        counted, taken_at, claim = self._exporter.snapshot(), self._clock.now(), self._claim
        instance, unpublished = self._instance_id(), self._unpublished()
        asked_at = max(self._asked_at, self._exporter.collected_at or self._asked_at)
        latest, self._claim = self._shown, None
        if instance != self._instance:
            # Whether or not its counts could be stored since.
            if self._instance is not None:
                self._formerly = (*self._formerly, self._instance)
            self._instance = instance
            # Another process may have got the name of the target.
            self._settled = False
        same = latest is not None and (latest.instance, latest.final) == (instance, final)
        if latest is not None and same and claim is None and self._counted.get(latest.number) == counted:
            stale = latest.asked_at <= latest.taken_at < asked_at or asked_at - latest.asked_at > _SCRAPED
            if not stale:
                # An idle process need not encode anything.
                return
        # All lines of the other tasks are published by now.
        self._in_sum = {task_id: lines for task_id, lines in self._in_sum.items() if task_id in unpublished}
        new, counts = await self._encode(counted)
        self._number += 1
        target = self._target if claim is None else claim.name
        shown = Stored(
            instance, self._formerly, self._number, taken_at, unpublished, final, new, target, asked_at,
            dict(self._in_sum),
        )  # fmt: skip
        self._counted[shown.number], self._without[shown.number] = counted, new
        expected: dict[str, str | None] = {self._mark: None if latest is None else OWN}
        if claim is not None and await self._write(expected, shown, counts, claim):
            self._target, self._settled = claim.name, True
        elif claim is not None or not await self._write(expected, shown, counts):
            shown = await self._store_anew(replace(shown, target=self._target), counted, counts)
        self._counted, self._without = {shown.number: counted}, {shown.number: shown.counts}
        self._shown = shown

    async def _store_anew(self, shown: Stored, counted: Snapshot, counts: str) -> Stored:
        """Store again after a refusal: an earlier write had succeeded without an answer, or this process was folded."""
        former = self._mark
        mark = (await self._backend.settings(former)).get(former)
        folded = mark != OWN and not (mark is None and self._shown is None)
        # If this fails, the next round starts here again: the name is new, or its counts are replaced.
        self._shown = None
        if folded:
            self._take_out(mark)
            # Before the next await, because it may be cancelled.
            self._source, self._counted, self._without = uuid.uuid4().hex, {}, {}
            new, counts = await self._encode(counted)
            shown = replace(shown, counts=new, in_sum=dict(self._in_sum))
            self._counted, self._without = {shown.number: counted}, {shown.number: new}
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
            stored, added, lines = next(iter(self._without.values()), {}), {}, {}
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
    def _key(self) -> str:
        return f"{COUNTS}{self._source}"

    @property
    def _mark(self) -> str:
        return f"{MARKS}{self._source}"

    async def _write(
        self, expected: Mapping[str, str | None], shown: Stored, counts: str, claim: _Claim | None = None
    ) -> bool:
        # Each process writes under its own name, so that a repeated write does no harm.
        size = len(counts) + ID_LENGTH * len(shown.unpublished)
        stored = await beside(size, lambda: shown.dump(counts))
        changes = {self._mark: OWN, self._key: stored}
        if claim is not None:
            # In one step, so that no other process gets the same name for another target.
            expected, changes = {**expected, TARGETS: claim.before}, {**changes, TARGETS: claim.after}
        return await self._backend.swap_settings(expected, changes)

    async def _take_back(self) -> None:
        if self._set_aside:
            self._set_aside = False
            await asyncio.to_thread(self._aside.drop, self._source)

    async def _load(self, aside: Mapping[str, str]) -> None:
        """Show the stored counts of all workers of this target."""
        # In this order, because an instance is registered before it stores counts.
        books = self._books
        await books.read(await self._backend.settings(COUNTS), self._key)
        alive = self._living(await self._backend.instances())
        books.compare(aside)
        shown = self._shown
        mine = "" if shown is None else shown.target
        known = {key: other for key, (_, other) in books.known.items()}
        members = {key: other for key, other in known.items() if mine and other.target == mine}
        living = {key for key, other in members.items() if other.instance in alive and not other.final}
        self._alone = not living
        self._neighbours = {alive[members[key].instance] for key in living} <= {self._host} != {""}
        sums = {name: counts for name, (_, counts) in books.sums.items()}
        scene = Scene(books.table[1], mine, shown, known, sums, alive, self._clock.now())
        await self._carry(scene)
        # No await between these.
        self._members = {key: (other, key in living) for key, other in members.items()}
        self._sum = sums.get(mine, {})
        self._elsewhere = elsewhere_of(scene) if books.table[1].carrier == mine else None
        self._show(None if shown is None else shown.counts)
        self._dead = [key for key, other in known.items() if other.instance not in alive]

    def _show(self, own: Snapshot | None) -> None:
        aside = self._books.aside
        newest = [(aside.get(key, other), lives) for key, (other, lives) in self._members.items()]
        peers = [other.counts if lives else lasting(other.counts) for other, lives in newest]
        self._exporter.set_peers(
            [*peers, self._sum],
            own,
            elsewhere=self._elsewhere,
            # The others have shown theirs at that time; Prometheus refuses exemplars that are older.
            exemplars_after=max((other.asked_at.timestamp() for other, _ in newest), default=0.0),
        )

    async def _carry(self, scene: Scene) -> None:
        """Become the carrier if no scraped target is."""
        (text, table), scraped = self._books.table, scene.scraped()
        asked = self._asked or self._exporter.collected_at is not None
        if asked and scene.mine in scraped and table.carrier not in scraped:
            table = replace(table, carrier=scene.mine)
            if await self._backend.swap_settings({TARGETS: text}, {TARGETS: table.dump()}):
                self._books.table = table.dump(), table

    def _living(self, instances: list[Instance]) -> dict[str, str]:
        """The instances that live, as far as this process can see, and their hosts."""
        return {
            one.instance_id: one.host
            for one in instances
            if one.state == InstanceState.ALIVE and not process_gone(one, self._host)
        }


def _retrieve(exchange: asyncio.Task[None]) -> None:
    """Mark a failure as seen, because the service reports it; log only unexpected errors."""
    if not exchange.cancelled() and (exc := exchange.exception()) is not None and not isinstance(exc, BackendError):
        logger.error("the metrics could not be exchanged: %s", exc, exc_info=exc)
