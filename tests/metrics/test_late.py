"""A ledger that answers late, in another way for each worker: no counter of their page ever falls."""

from __future__ import annotations

import asyncio
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskflow_otel.backends.memory import MemoryBackend
from taskflow_otel.testing.clock import FakeClock
from tests.metrics.late import Neighbour, Page, files_at_once
from tests.metrics.worker import declare_dead

WORKERS = 3
Step = tuple[str, int, float]
workers = st.integers(0, WORKERS - 1)
# An exchange takes three statements and a scrape waits two seconds for it: 0.7 is just too late.
lateness = st.tuples(st.sampled_from(["before", "after"]), workers, st.sampled_from([0.7, 0.0, 0.7, 3.0]))
scrape = st.tuples(st.just("scrape"), workers, st.just(0.0))
steps = st.lists(
    st.one_of(
        scrape,
        scrape,
        scrape,
        lateness,
        st.tuples(st.just("run"), workers, st.just(0.0)),
        st.tuples(st.just("pass"), st.just(0), st.sampled_from([0.3, 1.1, 4.0])),
        st.tuples(st.just("die"), st.integers(1, WORKERS - 1), st.just(0.0)),
    ),
    min_size=5,
    max_size=40,
)


@settings(max_examples=60)
@given(steps)
def test_no_counter_falls_while_any_of_them_waits_for_the_ledger(story: list[Step]) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as directory:
        patch.setattr(tempfile, "tempdir", directory)
        files_at_once(patch)
        asyncio.run(tell(story))


async def tell(story: list[Step]) -> None:
    clock, page = FakeClock(), Page()
    ledger = MemoryBackend()
    await ledger.open()
    workers = {number: await Neighbour(str(number), ledger, clock).come() for number in range(WORKERS)}
    ran, died = 0, False
    for what, number, seconds in story:
        if what == "pass":
            await clock.advance(seconds)
        elif number in workers:
            worker = workers[number]
            if what == "scrape":
                await page.look(worker)
            elif what == "run":
                worker.run()
                ran += 1
            elif what == "die":
                died = True
                del workers[number]
                await worker.metrics.stop()
                await declare_dead(ledger, worker.name)
            else:
                setattr(worker.late, what, seconds)
    for worker in workers.values():
        worker.late.before = worker.late.after = 0.0
    await clock.advance(10.0)
    for worker in workers.values():
        finished = await page.look(worker)
        # The tasks are not in this ledger: what a worker had not stored when it died is not found there.
        assert finished <= ran
        assert died or finished == ran
    for worker in workers.values():
        await worker.metrics.stop()
    await ledger.close()
