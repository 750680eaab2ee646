"""The versions that a process stores of its counts, and those that others know although they are not stored."""

from __future__ import annotations

import logging

import pytest

from taskflow_otel.backends.memory import MemoryBackend
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.metrics.aside import Aside
from taskflow_otel.metrics.own import OwnCounts
from taskflow_otel.metrics.stored import Stored
from taskflow_otel.runtime.readable import Readable
from taskflow_otel.testing.clock import FakeClock
from tests.metrics.late import Neighbour, Page, files_at_once
from tests.metrics.worker import Unsteady, declare_dead


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    files_at_once(monkeypatch)


def counts_of(exporter: PrometheusExporter, backend: MemoryBackend, clock: FakeClock) -> OwnCounts:
    return OwnCounts(
        exporter,
        backend,
        clock,
        Readable(logging.getLogger(__name__)),
        instance_id=lambda: "a",
        unpublished=dict,
        asked_at=clock.now(),
    )


async def test_a_version_that_was_shown_without_the_ledger_is_followed_by_a_stored_one(clock: FakeClock) -> None:
    backend = Unsteady()
    own = counts_of(PrometheusExporter(clock=clock), backend, clock)
    await own.store(final=False)
    version = own.without_ledger()
    own.ahead = "text", version
    assert own.latest is version
    backend.away = True
    with pytest.raises(ConnectionError):
        await own.store(final=False)
    assert own.latest is version
    backend.away = False
    # Although nothing was counted since: the others know this version, and its file will be deleted.
    await own.store(final=False)
    assert own.ahead is None
    text = (await backend.settings(own.key))[own.key]
    assert Stored.load(text).number > version.number


async def test_a_file_is_not_deleted_because_an_older_version_was_stored(
    backend: MemoryBackend, clock: FakeClock
) -> None:
    one, other = [await Neighbour(name, backend, clock).come() for name in "ab"]
    await clock.advance(1.5)
    page = Page()
    # Its statements are on their way when the patience ends, and then arrive one after the other.
    one.late.after = 1.5
    one.run(2)
    await page.look(one)
    one.run(3)
    shown = await page.look(one)
    for _ in range(8):
        await clock.advance(0.5)
        assert await page.look(other) >= shown
    one.late.after = 0.0
    await clock.advance(10.0)
    assert [await page.look(worker) for worker in (one, other)] == [5.0, 5.0]
    assert Aside(one.address).read() == {}


async def test_one_that_was_declared_dead_counts_nothing_twice_of_what_was_in_its_file(
    backend: MemoryBackend, clock: FakeClock
) -> None:
    one, other = [await Neighbour(name, backend, clock).come() for name in "ab"]
    await clock.advance(1.5)
    page = Page()
    one.run(2)
    one.late.before = 60.0
    assert await page.look(one) == 2.0
    # The other one adds up what the file has, which was never stored.
    await declare_dead(backend, "a")
    await clock.advance(5.0)
    assert await page.look(other) == 2.0
    one.late.before = 0.0
    one.name = "a2"
    await one.beat("alive")
    await clock.advance(70.0)
    one.run(1)
    assert [await page.look(worker) for worker in (one, other)] == [3.0, 3.0]


async def test_the_versions_of_a_long_outage_share_what_has_not_changed(clock: FakeClock) -> None:
    backend, exporter = Unsteady(), PrometheusExporter(clock=clock)
    own = counts_of(exporter, backend, clock)
    exporter.register_task("send", "mail")
    await own.store(final=False)
    backend.away = True
    for _ in range(5):
        exporter.count("taskflow_exporter_errors_total", "logs")
        with pytest.raises(ConnectionError):
            await own.store(final=False)
        own.without_ledger()
    versions = list(own._counted.values())
    # The stored one, five that might have been, and the last two of the files.
    assert len(versions) == 1 + 5 + 2
    changed = {name for name in versions[-1] if len({id(version.get(name)) for version in versions}) > 1}
    assert changed == {"taskflow_exporter_errors_total"}
