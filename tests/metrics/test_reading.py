"""What the ledger said, in a file: it comes back as it was, and a late worker shows no less than the others."""

from __future__ import annotations

import pytest

from taskflow_otel.backends.memory import MemoryBackend
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.metrics.reading import Reading
from taskflow_otel.testing.clock import FakeClock
from tests.metrics.late import Neighbour, Page, files_at_once, in_time
from tests.metrics.worker import FINISHED


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    files_at_once(monkeypatch)


def test_a_reading_is_read_as_it_was_written() -> None:
    reading = Reading(1.5, {"metrics:a": '{"é": "\\""}', "metrics:gone": "{}"}, {"a": "host"})
    assert Reading.load(reading.dump()) == reading


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"at": 1, "counts": 2, "hosts": {}}', '{"at": null}'])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Reading.load(text)


async def test_a_late_worker_shows_what_the_pages_of_its_neighbours_have_shown(
    backend: MemoryBackend, clock: FakeClock
) -> None:
    quick, late = [await Neighbour(name, backend, clock).come() for name in "ab"]
    page = Page()
    quick.run(3)
    assert [await page.look(worker) for worker in (quick, late)] == [3.0, 3.0]
    late.late.before = 5.0
    quick.run(4)
    assert [await page.look(worker) for worker in (quick, late)] == [7.0, 7.0]


async def test_a_worker_that_has_read_nothing_yet_shows_no_page(backend: MemoryBackend, clock: FakeClock) -> None:
    first = await Neighbour("a", backend, clock).come()
    first.run(3)
    await in_time(clock, first.leave())
    second = Neighbour("b", backend, clock)
    await second.beat("alive")
    await in_time(clock, second.metrics.introduce())
    second.late.after = 5.0
    await in_time(clock, second.metrics.start())
    with pytest.raises(BackendUnavailableError, match="could not be read yet"):
        await second.scrape()
    second.late.after = 0.0
    await clock.advance(20.0)
    assert (await second.scrape())[FINISHED] == 3.0
    await second.metrics.stop()
