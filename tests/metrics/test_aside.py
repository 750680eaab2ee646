"""Counts in files, while the ledger is away."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from taskflow_otel.backends.memory import MemoryBackend
from taskflow_otel.metrics.aside import Aside
from taskflow_otel.runtime.identity import host_identity
from taskflow_otel.testing.clock import FakeClock
from tests.metrics.worker import FINISHED, Unsteady, Worker
from tests.waiting import eventually


@pytest.fixture
def directory() -> Path:
    return Path(tempfile.gettempdir())


def test_workers_of_one_address_read_what_each_has_written() -> None:
    one, other, elsewhere = Aside("a"), Aside("a"), Aside("b")
    assert (one.there, one.read()) == (False, {})
    assert one.put("x", "1")
    assert other.put("y", "2")
    assert one.read() == other.read() == {"x": "1", "y": "2"}
    assert elsewhere.read() == {}
    one.drop("x")
    one.drop("x")
    assert other.read() == {"y": "2"}
    other.drop("y")
    assert not one.there


def test_texts_of_processes_that_are_gone_do_not_stay_for_ever(directory: Path) -> None:
    aside = Aside("a", "-pages")
    for name in ("x", "y", "z"):
        aside.put(name, name)
    for path in directory.rglob("[xy].json"):
        age = 700 if path.stem == "x" else 500
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    aside.drop_older(600)
    assert aside.read() == {"y": "y", "z": "z"}
    assert Aside("a").read() == {}


def test_a_directory_that_others_can_write_to_is_not_used(directory: Path) -> None:
    aside = Aside("a")
    aside.put("x", "1")
    [root] = directory.iterdir()
    root.chmod(0o777)
    assert not aside.put("x", "2")
    assert aside.read() == {}


def test_where_nothing_can_be_written_nothing_is(directory: Path) -> None:
    (directory / "file").touch()
    tempfile.tempdir = str(directory / "file")
    assert not Aside("a").put("x", "1")


class Neighbour(Worker):
    """A worker on this host."""

    host = host_identity()


async def finished(worker: Worker) -> float:
    """What a page shows; files are read on threads, which the fake clock does not wait for."""
    return (await worker.scrape()).get(FINISHED, 0.0)


async def test_without_the_ledger_workers_of_one_host_show_all_that_each_has_counted(clock: FakeClock) -> None:
    backend = Unsteady()
    one, other = [await Neighbour(name, backend, clock).start() for name in "ab"]
    one.run(2)
    await clock.advance(1.5)
    assert [await finished(worker) for worker in (one, other)] == [2.0, 2.0]
    backend.away = True
    shown = [2.0]
    for worker in (one, other, one, other, one):
        worker.run(1)
        # The other one shows it from its next scrape on: what was counted there since its last file is missing here.
        shown.append(await finished(worker))
    assert shown == sorted(shown)
    assert shown[-1] == 7.0
    backend.away = False

    async def told() -> bool:
        return [await finished(worker) for worker in (one, other)] == [7.0, 7.0]

    await eventually(told, "the counts of the outage in the ledger")
    assert Aside(one.address).read() == {}


async def test_a_worker_that_dies_in_the_outage_leaves_what_it_has_shown(clock: FakeClock) -> None:
    backend = Unsteady()
    one, other = [await Neighbour(name, backend, clock).start() for name in "ab"]
    await clock.advance(1.5)
    assert await finished(other) == 0.0
    backend.away = True
    one.run(3)
    assert await finished(one) == 3.0
    await one.metrics.stop()
    assert await finished(other) == 3.0
    backend.away = False
    await declare(backend)
    for _ in range(3):
        assert await finished(other) == 3.0
        await clock.advance(2.0)

    async def folded() -> bool:
        await clock.advance(1.0)
        return Aside(one.address).read() == {}

    await eventually(folded, "the folding of the dead")
    assert await finished(other) == 3.0


async def declare(backend: MemoryBackend) -> None:
    [instance] = [one for one in await backend.instances() if one.instance_id == "a"]
    assert await backend.declare_dead("a", instance.heartbeat_at)
