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
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from taskflow_otel.backends.base import Backend
from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.exporters.prometheus.values import Histogram, LabelValues, merge
from taskflow_otel.metrics.aside import Aside
from taskflow_otel.metrics.books import COUNTS, TARGETS, Books
from taskflow_otel.metrics.elsewhere import Scene
from taskflow_otel.metrics.folding import Folding
from taskflow_otel.metrics.own import Claim, OwnCounts
from taskflow_otel.metrics.reading import Reading
from taskflow_otel.metrics.stored import beside, dump_counts
from taskflow_otel.metrics.targets import process_address
from taskflow_otel.metrics.view import View
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
_PAGES_KEPT = 600.0
"""Seconds after which nobody needs what a page has shown, because its process or another one has read the ledger."""
_NEVER = datetime(2000, 1, 1, tzinfo=UTC)
_TRIES = 5


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
        self._without_page, self._own.asked_at = True, _NEVER

    def _become_new(self) -> None:
        """Forget everything that belongs to another process: the parent of a fork."""
        self._host = host_identity()
        self._own = OwnCounts(
            self._exporter,
            self._backend,
            self._clock,
            self._readable,
            instance_id=self._instance_id,
            unpublished=self._unpublished,
            asked_at=_NEVER if self._without_page else self._clock.now(),
        )
        self._asked = False
        self._books = Books(self._readable)
        self._folding = Folding(self._books, self._exporter, self._backend, self._clock, self._readable)
        self._view = View()
        self._reading: Reading | None = None
        """What `_view` was made from."""
        self._aside, self._pages = _files("")
        self._writing_pages = threading.Lock()
        self._pages_dropped = self._clock.monotonic()
        self._set_aside = ""
        """The name under which the counts of this process are in a file, if they are."""
        self._dead: list[str] = []
        """The keys of processes that can commit nothing any more, and are not folded yet."""
        self._absent: set[str] = set()
        """The keys of processes that do not live."""
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
            await self._own.store(final=False)
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
            living = {other.target for _, other in self._books.known.values()} | {self._own.target}
            await self._folding.fold(dead, living, lambda key: self._aside.drop(key.removeprefix(COUNTS)))

    async def refresh(self) -> None:
        """Return once the page includes what all workers of this target counted before this call.

        While the backend does not answer, the latest known counts are shown; a single worker shows its current ones.
        Raises `BackendUnavailableError` if the counts of the others could not be read since the start of this process.
        """
        if not self._open:
            return
        self._asked, self._own.asked_at = True, self._clock.now()
        self._answers = await self._wait_for(self._ask(), _PATIENCE if self._answers else _IMPATIENCE)
        if not self._answers:
            await self._show_without_ledger()

    async def _show_without_ledger(self) -> None:
        """Show the current counts of this process, with those of the others as the files of this host have them."""
        view, source = self._view, self._own.source
        if not (view.alone or view.neighbours):
            # Workers on other hosts cannot see these counts: their answers would show less.
            return
        own = self._own.without_ledger()
        text = await asyncio.to_thread(lambda: own.dump(dump_counts(own.counts)))
        # Also if it was alone: another worker may have come since.
        self._set_aside = source if self._own.target else ""
        written = await asyncio.to_thread(self._aside.put, source, text) if self._set_aside else False
        if not (written or view.alone):
            return
        view, reading = await self._latest_view({self._own.key: text})
        if source != self._own.source or not self._own.is_newest(own):
            # An exchange has ended in the meantime.
            return
        self._own.ahead = text, own
        self._reading, self._view = reading, view
        view.show(self._exporter, own.counts)

    async def _latest_view(self, own: Mapping[str, str]) -> tuple[View, Reading]:
        """The view of the worker of this host who read the ledger last, and what it was made from.

        No other has shown newer counts: each writes down what its pages show before it answers.
        """
        texts, asides = await asyncio.to_thread(lambda: (self._pages.read(), self._aside.read()))
        found = [
            await beside(len(text), partial(self._readable.read, f"the page of {name}", Reading.load, text))
            for name, text in texts.items()
        ]
        now, key = self._clock.monotonic(), self._own.key
        # One from the future is of the time before the machine was started; one without this process is of a ledger
        # that was used behind this address before.
        others = [one for one in found if one is not None and one.at <= now and key in one.counts]
        readings = others if self._reading is None else [*others, self._reading]
        if not readings:
            raise BackendUnavailableError("the counts of the other workers could not be read yet")
        newest = max(readings, key=lambda one: one.at)
        books = self._books.copy()
        await books.read(dict(newest.counts), key)
        await books.compare(asides, *(one.by_process() for one in readings))
        return View.of(self._scene(books, newest), self._host), newest.with_newer(books, own)

    def _scene(self, books: Books, reading: Reading) -> Scene:
        known = {key: books.latest(key) for key in books.known}
        sums = {name: counts for name, (_, counts) in books.sums.items()}
        own = self._own
        return Scene(books.table[1], own.target, own.stored, known, sums, reading.hosts, self._clock.now())

    async def _wait_for(self, exchange: asyncio.Task[None], timeout: float) -> bool:
        """Wait for an exchange; return whether it succeeded. It continues: other callers may wait for it too."""
        await asyncio.wait({exchange}, timeout=timeout)
        return exchange.done() and not exchange.cancelled() and exchange.exception() is None

    def of_all(self, metric: str) -> dict[LabelValues, float]:
        """A gauge over all living instances, of every target: this one now, the others as of their last exchange."""
        own = self._exporter.snapshot().get(metric, {})
        absent = self._absent
        others = [one.counts.get(metric, {}) for key, (_, one) in self._books.known.items() if key not in absent]
        merged = merge([{metric: dict(part)} for part in (own, *others)])[metric]
        return {labels: value for labels, value in merged.items() if not isinstance(value, Histogram)}

    def render(self, accept: str | None = None) -> tuple[bytes, str]:
        """Return body and content type for an `Accept` header; see `PrometheusExporter.render`."""
        answer = self._exporter.render(accept)
        self._write_page()
        return answer

    def _write_page(self) -> None:
        """Before a page is answered: let the other workers of this host show no less if the ledger is late for them."""
        view, reading = self._view, self._reading
        if view.alone or not view.neighbours or reading is None:
            return
        with self._writing_pages:
            self._pages.put(self._own.source, reading.dump())
            if self._clock.monotonic() - self._pages_dropped > _PAGES_KEPT:
                self._pages_dropped = self._clock.monotonic()
                self._pages.drop_older(_PAGES_KEPT)

    async def finish(self) -> None:
        """Store the last counts, marked as final unless the outcome of a commit is unknown."""
        if not self._open:
            return
        self._open = False
        async with self._exchanging:
            await self._own.finish()
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
            if not self._view.alone:
                await self._clock.sleep(max(0.0, self._last_exchange + _PAUSE - self._clock.monotonic()))
            self._next = None
            self._last_exchange = self._clock.monotonic()
            # Before the ledger: a worker deletes its file once the ledger has its counts.
            aside = await self._read_aside()
            await self._settle()
            await self._own.store(final=False)
            await self._load(aside)
            await self._take_back()

    async def _read_aside(self) -> dict[str, str]:
        return await asyncio.to_thread(self._aside.read) if self._aside.there else {}

    async def _settle(self) -> None:
        """Find the target of this process, and store its name together with the counts."""
        own = self._own
        for _ in range(_TRIES):
            address = "" if own.settled else self._address() or (process_address() if self._asked else "")
            if not address:
                return
            await self._books.read(await self._backend.settings(COUNTS), own.key)
            alive = self._living(await self._backend.instances())
            others = (other for _, other in self._books.known.values())
            names = {other.target for other in others if other.instance in alive and not other.final}
            text, table = self._books.table
            claimed = table.claim(address, names)
            self._aside, self._pages = _files(address)
            await own.store(final=False, claim=Claim(claimed.names[address], text, claimed.dump()))

    async def _take_back(self) -> None:
        source = self._set_aside
        if source and self._own.ahead is None:
            self._set_aside = ""
            await asyncio.to_thread(self._aside.drop, source)

    async def _load(self, aside: Mapping[str, str]) -> None:
        """Show the stored counts of all workers of this target."""
        books, own, at = self._books, self._own, self._clock.monotonic()
        # In this order, because an instance is registered before it stores counts.
        counts = await self._backend.settings(COUNTS)
        await books.read(dict(counts), own.key)
        instances = await self._backend.instances()
        alive = self._living(instances)
        # Again, because a worker may have written one in the meantime.
        await books.compare(aside, await self._read_aside())
        await self._carry(self._scene(books, Reading(at, counts, alive)))
        table = books.table[0]
        reading = Reading(at, counts if table is None else {**counts, TARGETS: table}, alive)
        scene = self._scene(books, reading)
        self._absent = {key for key, (_, other) in books.known.items() if other.instance not in alive}
        # Until it is declared dead, what a process had sent to the ledger before it was killed may still be committed.
        undeclared = {one.instance_id for one in instances if one.state == InstanceState.ALIVE}
        self._dead = [key for key, (_, other) in books.known.items() if other.instance not in undeclared]
        # No await between these.
        if self._reading is None or self._reading.at <= at:
            self._reading = reading.with_newer(books, own.ahead_text)
            self._view = View.of(scene, self._host)
        latest = own.latest
        self._view.show(self._exporter, None if latest is None else latest.counts)

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


def _files(address: str) -> tuple[Aside, Aside]:
    """Those of counts that are not stored, and of what the pages have shown."""
    return Aside(address), Aside(address, "-pages")


def _retrieve(exchange: asyncio.Task[None]) -> None:
    """Mark a failure as seen, because the service reports it; log only unexpected errors."""
    if not exchange.cancelled() and (exc := exchange.exception()) is not None and not isinstance(exc, BackendError):
        logger.error("the metrics could not be exchanged: %s", exc, exc_info=exc)
