"""Several instances report together: their counts are summed, outlive them, and never fall."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from datetime import timedelta

import pytest
from msgspec.structs import replace

from taskflow_otel.backends.base import Insert
from taskflow_otel.backends.memory import MemoryBackend
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.exporters.prometheus.exporter import DEFAULT_MAX_LABEL_VALUES
from taskflow_otel.exporters.prometheus.task_counts import OTHER
from taskflow_otel.metrics.books import COUNTS, GONE, TARGETS
from taskflow_otel.metrics.folding import MARKS
from taskflow_otel.model.query import Instance
from taskflow_otel.model.record import TaskRecord, TimelineEntry
from taskflow_otel.model.replay import replay
from taskflow_otel.model.status import Transition
from taskflow_otel.testing.clock import FakeClock
from tests.metrics.worker import ENQUEUED, FINISHED, Unsteady, Worker, declare_dead, make_record
from tests.waiting import eventually


async def test_any_instance_answers_with_the_sum_of_all(backend: MemoryBackend, clock: FakeClock) -> None:
    workers = [await Worker(name, backend, clock).start() for name in "abc"]
    for number, worker in enumerate(workers, start=1):
        worker.run(number)
    await clock.advance(1.5)
    assert [(await worker.scrape())[FINISHED] for worker in workers] == [6.0, 6.0, 6.0]


async def test_a_later_answer_never_shows_less_from_any_instance(backend: MemoryBackend, clock: FakeClock) -> None:
    workers = [await Worker(name, backend, clock).start() for name in "ab"]
    shown = [0.0]
    for step in range(20):
        workers[step % 2].run()
        shown.append((await workers[step // 3 % 2].scrape())[FINISHED])
    assert shown == sorted(shown)


async def test_waiting_scrapes_share_one_exchange(
    backend: MemoryBackend, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = [await Worker(name, backend, clock).start() for name in "ab"]
    await clock.advance(1.5)
    reads = 0
    read = backend.instances

    async def counted() -> list[Instance]:
        nonlocal reads
        reads += 1
        return await read()

    monkeypatch.setattr(backend, "instances", counted)
    other.run()
    await other.scrape()
    reads = 0
    scrapes = [asyncio.create_task(one.metrics.refresh()) for _ in range(50)]
    while not all(scrape.done() for scrape in scrapes):
        await clock.advance(0.1)
    assert reads <= 2
    assert (await one.scrape())[FINISHED] == 1.0


@pytest.mark.parametrize("in_order", [True, False], ids=["stopped", "dead"])
async def test_counts_outlive_their_instance_and_what_was_so_at_the_time_does_not(
    backend: MemoryBackend, clock: FakeClock, in_order: bool
) -> None:
    one, other = [await Worker(name, backend, clock).start() for name in "ab"]
    one.run(3)
    running = make_record(one, "running")
    running.timeline = running.timeline[:-1]
    one.count(running)
    shown = await one.scrape()
    assert (shown[FINISHED], shown["taskflow_tasks_running"]) == (3.0, 1.0)

    await (one.leave() if in_order else one.die())
    for _ in range(3):
        shown = await other.scrape()
        assert (shown[FINISHED], shown[ENQUEUED], shown.get("taskflow_tasks_running", 0.0)) == (3.0, 4.0, 0.0)
        assert shown["taskflow_task_run_duration_seconds_count"] == 3.0
        assert shown["taskflow_task_last_success_timestamp_seconds"] > 0
        await clock.advance(2.0)
    keys = await backend.settings(COUNTS)
    assert len(keys) == 3, "the counts of the dead are one sum"
    assert keys.keys() > {GONE, TARGETS}
    # One that is thought to be dead may turn out to have been paused.
    assert len(await backend.settings(MARKS)) == (1 if in_order else 2)


async def test_the_next_life_continues_where_the_last_one_ended(backend: MemoryBackend, clock: FakeClock) -> None:
    for life in range(1, 4):
        worker = await Worker(f"life{life}", backend, clock).start()
        worker.run(10)
        assert (await worker.scrape())[FINISHED] == 10.0 * life
        await (worker.die() if life % 2 else worker.leave())


async def test_what_was_not_stored_before_a_death_is_found_in_the_ledger(
    backend: MemoryBackend, clock: FakeClock
) -> None:
    dead, heir = [await Worker(name, backend, clock).start() for name in "ab"]
    stored = dead.run(3)
    await clock.advance(1.5)
    unstored = dead.run(2)
    under_way = make_record(dead, "under-way")
    dead.exporter.on_lifecycle(next(replay(under_way)))
    await backend.apply([Insert(record) for record in (*stored, *unstored, under_way)])
    await dead.die()
    await clock.advance(3.0)
    shown = await heir.scrape()
    assert (shown[ENQUEUED], shown[FINISHED]) == (6.0, 6.0)
    assert shown["taskflow_task_attempts_total"] == 6.0


async def test_what_is_committed_after_the_death_of_its_process_is_counted_too(
    backend: MemoryBackend, clock: FakeClock
) -> None:
    dead, heir = [await Worker(name, backend, clock).start() for name in "ab"]
    heir.metrics._host = dead.host
    await clock.advance(1.5)
    record = make_record(dead, "on-its-way")
    await dead.metrics.stop()
    now = clock.now()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    await process.wait()
    await backend.beat(Instance(dead.name, dead.host, process.pid, "", now, now, 15.0, "alive"))
    # All see that it is gone. But the database has not answered its last statement yet.
    for _ in range(3):
        assert (await heir.scrape()).get(FINISHED, 0.0) == 0.0
        await clock.advance(1.5)
    await backend.apply([Insert(record)])
    await declare_dead(backend, dead.name)
    await clock.advance(3.0)
    assert (await heir.scrape())[FINISHED] == 1.0


async def test_the_starts_of_a_task_that_was_retried_are_found_in_the_ledger_too(
    backend: MemoryBackend, clock: FakeClock
) -> None:
    dead, heir = [await Worker(name, backend, clock).start() for name in "ab"]
    await clock.advance(1.5)
    now = clock.now()
    record = make_record(dead, "retried")
    first, *_, last = record.timeline
    # Without a delay, the next attempt is planned for a moment before its line is written.
    record.run_at = now - timedelta(microseconds=50)
    failed = TimelineEntry(Transition.RETRY_SCHEDULED, now, 0, dead.name, "retry_wait")
    started = [TimelineEntry(Transition.STARTED, now, attempt, dead.name) for attempt in range(2)]
    record.timeline = (first, started[0], failed, started[1], last)
    await backend.apply([Insert(record)])
    await dead.die()
    await clock.advance(3.0)
    shown = await heir.scrape()
    assert shown["taskflow_task_queue_wait_seconds_count"] == shown["taskflow_task_attempts_total"] == 2.0


async def test_a_transition_that_was_committed_and_not_counted_yet_is_counted_once(
    backend: MemoryBackend, clock: FakeClock
) -> None:
    dead, heir = [await Worker(name, backend, clock).start() for name in "ab"]
    record = make_record(dead, "t")
    dead.exporter.on_lifecycle(next(replay(record)))
    dead.pending["t"] = 1
    await clock.advance(1.5)
    await backend.apply([Insert(record)])
    await dead.die()
    await clock.advance(3.0)
    shown = await heir.scrape()
    assert (shown[ENQUEUED], shown[FINISHED]) == (1.0, 1.0)


async def test_an_instance_that_was_only_paused_is_not_counted_twice(backend: MemoryBackend, clock: FakeClock) -> None:
    paused, heir = [await Worker(name, backend, clock).start() for name in "ab"]
    paused.run(3)
    await clock.advance(1.5)
    # What the ledger knows of a run time need not be what was measured.
    late = [replace(record, task_id=f"late-{n}", duration=20.0) for n, record in enumerate(paused.run(2))]
    await backend.apply([Insert(record) for record in late])
    await paused.metrics.stop()
    await declare_dead(backend, "a")
    await clock.advance(3.0)
    assert (await heir.scrape())[FINISHED] == 5.0

    paused.name = "a2"
    await paused.beat("alive")
    assert [(await worker.scrape())[FINISHED] for worker in (paused, heir)] == [5.0, 5.0]
    paused.run(4)
    shown = [await worker.scrape() for worker in (paused, heir)]
    assert [(page[FINISHED], page["taskflow_task_run_duration_seconds_count"]) for page in shown] == [(9.0, 9.0)] * 2
    assert [mark for mark in (await backend.settings(MARKS)).values() if mark != "own"] == []


async def test_after_a_burial_the_former_id_is_known_even_if_the_first_new_counts_cannot_be_stored(
    clock: FakeClock,
) -> None:
    class AwayAfterRefusal(Unsteady):
        async def swap_settings(self, expected: Mapping[str, str | None], changes: Mapping[str, str | None]) -> bool:
            swapped = await super().swap_settings(expected, changes)
            self.away = not swapped
            return swapped

    backend = AwayAfterRefusal()
    paused, heir = [await Worker(name, backend, clock).start() for name in "ab"]
    paused.run(1)
    await clock.advance(1.5)
    await paused.metrics.stop()
    await declare_dead(backend, "a")
    await clock.advance(3.0)
    late = make_record(paused, "late")
    paused.run(1)
    paused.pending = {"late": 0}
    with pytest.raises(BackendUnavailableError):
        await paused.metrics.introduce()
    backend.away = False
    paused.name = "a2"
    await paused.beat("alive")
    await paused.metrics.introduce()
    # It was sent under the former id, and dies before it is published. A backend refuses what a dead instance sends for
    # as long as it knows of the death.
    await backend.forget_instances(["a"])
    await backend.apply([Insert(late)])
    await declare_dead(backend, "a2")
    await clock.advance(3.0)
    assert (await heir.scrape())[FINISHED] == 3.0


async def test_a_manager_that_starts_again_continues_counting(backend: MemoryBackend, clock: FakeClock) -> None:
    again, other = [await Worker(name, backend, clock).start() for name in "ab"]
    again.run(3)
    await again.leave()
    await clock.advance(2.0)
    again.name = "a2"
    await again.start()
    again.run(1)
    assert [(await worker.scrape())[FINISHED] for worker in (again, other)] == [4.0, 4.0]


async def test_alone_without_its_backend_an_instance_shows_what_it_has_counted(clock: FakeClock) -> None:
    backend = Unsteady()
    first = await Worker("a", backend, clock).start()
    first.run(2)
    await first.leave()
    alone = await Worker("b", backend, clock).start()
    backend.away = True
    alone.run(3)
    assert (await alone.scrape())[FINISHED] == 5.0
    backend.away = False
    assert (await alone.scrape())[FINISHED] == 5.0


async def test_with_others_and_without_the_backend_the_latest_known_sum_is_shown(clock: FakeClock) -> None:
    backend = Unsteady()
    one, other = [await Worker(name, backend, clock).start() for name in "ab"]
    one.run(2)
    await clock.advance(1.5)
    assert [(await worker.scrape())[FINISHED] for worker in (one, other)] == [2.0, 2.0]
    backend.away = True
    other.run(3)
    assert [(await worker.scrape())[FINISHED] for worker in (one, other)] == [2.0, 2.0]
    backend.away = False
    await other.scrape()
    assert [(await worker.scrape())[FINISHED] for worker in (one, other)] == [5.0, 5.0]


async def test_counts_that_were_just_folded_are_shown_once_while_the_backend_is_away(clock: FakeClock) -> None:
    backend = Unsteady()
    one, other = [await Worker(name, backend, clock).start() for name in "ab"]
    for worker in (one, other):
        worker.run(2)
        await worker.scrape()
    await other.die()
    # Without the rounds, which would read the sums again.
    await one.metrics.stop()
    await one.scrape()
    await one.metrics.tick()
    backend.away = True
    one.run(1)
    assert (await one.scrape())[FINISHED] == 5.0


async def test_unreadable_counts_are_left_out_and_reported(
    backend: MemoryBackend, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    await backend.put_setting(f"{COUNTS}other-version", '{"counts": 1}')
    worker = await Worker("a", backend, clock).start()
    worker.run()
    assert (await worker.scrape())[FINISHED] == 1.0
    assert "other-version" in caplog.text


async def test_lives_with_ever_new_names_stay_under_the_cap(backend: MemoryBackend, clock: FakeClock) -> None:
    for life in range(6):
        worker = await Worker(f"life{life}", backend, clock).start()
        for number in range(100):
            worker.run(1, f"task-{life}-{number}")
        await worker.leave()
        await clock.advance(2.0)
    heir = await Worker("heir", backend, clock).start()
    await clock.advance(2.0)
    assert (await heir.scrape())[FINISHED] == 600.0

    def names() -> set[str]:
        return {s.labels["task"] for f in heir.exporter.collect() for s in f.samples if s.name == FINISHED}

    async def folded() -> bool:
        # Large counts are folded on a thread, which the fake clock does not wait for.
        await clock.advance(1.0)
        return len(names()) == DEFAULT_MAX_LABEL_VALUES + 1

    await eventually(folded, "the folding of the dead")
    assert OTHER in names()
    assert (await heir.scrape())[FINISHED] == 600.0


async def test_what_was_kept_for_the_paused_is_forgotten_after_a_while(
    backend: MemoryBackend, clock: FakeClock
) -> None:
    heir = await Worker("heir", backend, clock).start()
    for name in ("a", "b"):
        dead = await Worker(name, backend, clock).start()
        await clock.advance(1.5)
        await backend.apply([Insert(record) for record in dead.run(1)])
        await dead.die()
        await clock.advance(timedelta(hours=2).total_seconds())
        assert (await heir.scrape())[FINISHED] == {"a": 1.0, "b": 2.0}[name]
    assert len(await backend.settings(MARKS)) == 2


async def test_one_that_cannot_be_added_does_not_keep_the_others_out(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Strange(MemoryBackend):
        async def get(self, task_id: str) -> TaskRecord | None:
            if task_id == "strange":
                raise ValueError("a record of another world")
            return await super().get(task_id)

    backend = Strange()
    heir = await Worker("heir", backend, clock).start()
    for name in ("a", "b", "c"):
        dead = await Worker(name, backend, clock).start()
        dead.pending = {"strange": 0} if name == "b" else {}
        dead.run(1)
        await dead.scrape()
        await dead.die()
    await clock.advance(3.0)
    assert (await heir.scrape())[FINISHED] == 3.0
    assert "a record of another world" in caplog.text
    assert len(await backend.settings(COUNTS)) == 4, "the targets, the sum, the heir and the strange one"
