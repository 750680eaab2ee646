"""Backends with tasks: store, change, refuse, find and count them."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from taskflow_otel.backends.base import AppendLogs, Applied, Backend, Change, Insert, Outcome, RetryLink, Update
from taskflow_otel.backends.pool import KeepsPool
from taskflow_otel.backends.spans import KeepsSpans
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import LogEntry, TaskRecord
from taskflow_otel.model.status import FINISHED_STATUSES, TaskStatus
from taskflow_otel.testing.backends.fixtures import APPLIED, STALE, BackendFixtures, Open
from taskflow_otel.testing.backends.samples import (
    BASE,
    TEXT,
    finish,
    full_task,
    ids,
    make_instance,
    make_task,
    matches,
    population,
    queries,
)


class TaskConformance(BackendFixtures):
    """Tests of storing, changing, refusing, finding and counting tasks."""

    async def test_it_fulfils_the_protocol(self, backend: Backend) -> None:
        assert isinstance(backend, Backend)
        assert backend.name
        assert isinstance(backend.durable, bool)

    async def test_a_task_comes_back_as_it_was_stored(self, backend: Backend) -> None:
        task = full_task()
        assert await backend.apply([Insert(task)]) == [APPLIED]
        assert await backend.get(task.task_id) == task

    async def test_an_id_that_no_task_can_have_is_that_of_no_task(self, backend: Backend) -> None:
        task = make_task()
        await backend.apply([Insert(task), AppendLogs(task.task_id, (LogEntry(0, BASE, "info", "a line", 0, {}),))])
        stray = [
            "", " ", "\0", "a\0b", f"{task.task_id}\0", "\ud800", f"{task.task_id}\udfff", "é", "\U0001f600", "%",
            "'\\\"", f"{task.task_id} ", task.task_id.upper(), task.task_id[:-1],
            "x" * 10_000, f"{task.task_id}{' ' * 10_000}",
        ]  # fmt: skip
        for task_id in stray:
            assert await backend.get(task_id) is None
            assert await backend.logs(task_id) == []
            assert await backend.request_cancel(task_id) is False
            assert await backend.delete_tasks([task_id]) == []
            if isinstance(backend, KeepsSpans):
                assert await backend.span_store.read(task_id) == {}
            if isinstance(backend, KeepsPool):
                assert await backend.pool_store.claim_one("i1", task_id) is None
        assert await backend.get_all(stray) == {}
        assert await backend.get_all([*stray, task.task_id]) == {task.task_id: task}
        assert await backend.delete_tasks([*stray, task.task_id]) == []
        assert len(await backend.logs(task.task_id)) == 1

    async def test_a_write_to_a_task_that_was_deleted_is_refused(self, backend: Backend) -> None:
        task = make_task()
        await backend.apply([Insert(task)])
        await backend.apply([Update(finish(task))])
        assert await backend.delete_tasks([task.task_id]) == [task.task_id]
        assert await backend.apply([Update(finish(task, TaskStatus.FAILED))]) == [STALE]
        assert await backend.get(task.task_id) is None

    async def test_an_update_writes_every_mutable_field(self, backend: Backend) -> None:
        task, target = make_task(), full_task()
        await backend.apply([Insert(task)])
        changed = task.copy()
        for name in (
            "run_at", "start_time", "attempt", "retries_used", "duration", "error", "error_type", "stacktrace",
            "progress", "reason", "timeline", "logs_dropped", "crashes", "trace",
        ):  # fmt: skip
            setattr(changed, name, getattr(target, name))
        changed.status = TaskStatus.RUNNING
        changed.duplicate_of = new_task_id()
        assert await backend.apply([Update(changed)]) == [APPLIED]
        assert await backend.get(task.task_id) == changed
        changed = finish(changed, TaskStatus.FAILED)
        changed.progress = changed.run_at = changed.reason = None
        assert await backend.apply([Update(changed)]) == [APPLIED]
        assert await backend.get(task.task_id) == changed

    async def test_an_update_leaves_the_cancel_request_and_the_retry_link(self, backend: Backend) -> None:
        task = make_task()
        await backend.apply([Insert(task)])
        await backend.request_cancel(task.task_id)
        retry = make_task(retry_of=task.task_id)
        await backend.apply([Insert(retry, link=RetryLink())])
        await backend.apply([Update(finish(task))])
        stored = await backend.get(task.task_id)
        assert stored is not None
        assert (stored.cancel_requested, stored.retried_by) == (True, retry.task_id)

    async def test_of_several_retries_of_one_task_the_first_is_linked_and_the_others_learn_its_id(
        self, backend: Backend
    ) -> None:
        original = finish(make_task(), TaskStatus.FAILED)
        await backend.apply([Insert(original)])
        retries = [make_task(retry_of=original.task_id) for _ in range(5)]
        results = await asyncio.gather(*(backend.apply([Insert(retry, link=RetryLink())]) for retry in retries))
        [winner] = [r.task_id for r, [applied] in zip(retries, results, strict=True) if applied == APPLIED]
        assert [applied for [applied] in results if applied != APPLIED] == [Applied(Outcome.DUPLICATE, winner)] * 4
        for retry in retries:
            assert (await backend.get(retry.task_id) is not None) == (retry.task_id == winner)
        stored = await backend.get(original.task_id)
        assert stored is not None
        assert stored.retried_by == winner

    async def test_of_several_retries_in_one_batch_the_first_is_linked(self, backend: Backend) -> None:
        original = finish(make_task(), TaskStatus.FAILED)
        first, second = (make_task(retry_of=original.task_id) for _ in range(2))
        other = make_task()
        batch = [Insert(original), Insert(first, link=RetryLink()), Insert(second, link=RetryLink()), Insert(other)]
        expected = [APPLIED, APPLIED, Applied(Outcome.DUPLICATE, first.task_id), APPLIED]
        assert await backend.apply(batch) == expected
        assert await backend.apply(batch) == expected
        assert await backend.get(second.task_id) is None

    async def test_a_retry_replaces_the_one_that_its_caller_has_seen(self, backend: Backend) -> None:
        original = finish(make_task(), TaskStatus.FAILED)
        first = finish(make_task(retry_of=original.task_id), TaskStatus.FAILED)
        second, late = (make_task(retry_of=original.task_id) for _ in range(2))
        await backend.apply([Insert(original), Insert(first, link=RetryLink())])
        link = RetryLink(first.task_id)
        assert await backend.apply([Insert(second, link=link)]) == [APPLIED]
        assert await backend.apply([Insert(second, link=link)]) == [APPLIED]
        assert await backend.apply([Insert(late, link=link)]) == [Applied(Outcome.DUPLICATE, second.task_id)]

    async def test_a_retry_that_is_refused_for_its_key_leaves_no_link(self, backend: Backend) -> None:
        original = finish(make_task(), TaskStatus.FAILED)
        holder = make_task(idempotency_key="k")
        retry = make_task(retry_of=original.task_id, idempotency_key="k")
        await backend.apply([Insert(original), Insert(holder)])
        refused = Applied(Outcome.DUPLICATE, holder.task_id)
        assert await backend.apply([Insert(retry, link=RetryLink())]) == [refused]
        assert await backend.get(original.task_id) == original

    async def test_a_retry_of_a_deleted_task_is_stored(self, backend: Backend) -> None:
        retry = make_task(retry_of=new_task_id())
        assert await backend.apply([Insert(retry, link=RetryLink())]) == [APPLIED]
        assert await backend.get(retry.task_id) == retry

    async def test_many_tasks_are_read_at_once(self, backend: Backend) -> None:
        tasks = [make_task(tags={"n": str(number)}) for number in range(600)]
        await backend.apply([Insert(task) for task in tasks])
        wanted = [task.task_id for task in tasks[1:]]
        assert await backend.get_all([*wanted, new_task_id()]) == {task.task_id: task for task in tasks[1:]}
        assert await backend.get_all([]) == {}

    async def test_what_it_returns_is_a_copy(self, backend: Backend) -> None:
        task = make_task()
        await backend.apply([Insert(task)])
        found = await backend.get(task.task_id)
        assert found is not None
        found.timeline = ()
        found.trace.creation.trace_id = "f" * 32
        assert await backend.get(task.task_id) == task

    async def test_an_unknown_task_gives_no_record_and_an_empty_log(self, backend: Backend) -> None:
        assert await backend.get(new_task_id()) is None
        assert await backend.logs(new_task_id()) == []

    async def test_an_empty_batch_has_no_results(self, backend: Backend) -> None:
        assert await backend.apply([]) == []

    async def test_one_megabyte_of_arguments_comes_back(self, backend: Backend) -> None:
        task = make_task(payload="ü" * 500_000, stacktrace="🎉" * 32_768)
        await backend.apply([Insert(task)])
        assert await backend.get(task.task_id) == task

    async def test_characters_that_cannot_be_stored_do_not_spoil_the_batch(self, backend: Backend) -> None:
        bad = make_task(error="a\x00b\ud800c", tags={"k\x00": "\udfff"}, idempotency_key="\x00\ud800")
        good = make_task()
        log = AppendLogs(bad.task_id, (LogEntry(0, BASE, "info", "x\x00\ud800y", 0, {"e": "\x00\ud800"}),))
        assert await backend.apply([Insert(bad), Insert(good), log]) == [APPLIED] * 3
        stored = await backend.get(bad.task_id)
        assert stored is not None
        assert stored.error is not None
        assert (stored.error[0], stored.error[-1]) == ("a", "c")
        assert [entry.message[-1] for entry in await backend.logs(bad.task_id)] == ["y"]
        assert await backend.get(good.task_id) == good

    async def test_a_large_batch_is_applied_in_order(self, backend: Backend) -> None:
        tasks = [make_task() for _ in range(700)]
        inserts: list[Change] = [Insert(task) for task in tasks]
        assert await backend.apply([*inserts, *(Update(finish(task)) for task in tasks)]) == [APPLIED] * 1_400
        assert (await backend.counts(TaskQuery())).by_status == {TaskStatus.SUCCESS: 700}

    async def test_the_last_of_several_updates_of_one_task_in_a_batch_wins(self, backend: Backend) -> None:
        task = make_task()
        running = task.copy()
        running.status = TaskStatus.RUNNING
        assert await backend.apply([Insert(task), Update(running), Update(finish(task))]) == [APPLIED] * 3
        assert await backend.get(task.task_id) == finish(task)

    async def test_applying_the_same_batch_again_changes_nothing(self, backend: Backend) -> None:
        tasks = [make_task(tags={"n": str(n)}, idempotency_key=f"k{n}") for n in range(3)]
        entry = LogEntry(0, BASE, "info", "hello", 0, {})
        batch: list[Change] = [
            *(Insert(t) for t in tasks),
            Update(finish(tasks[0])),
            AppendLogs(tasks[0].task_id, (entry,)),
        ]
        first = await backend.apply(batch)
        counts = await backend.counts(TaskQuery())
        assert await backend.apply(batch) == first == [APPLIED] * 5
        assert await backend.counts(TaskQuery()) == counts
        assert await backend.logs(tasks[0].task_id) == [entry]
        assert await backend.get(tasks[0].task_id) == finish(tasks[0])

    async def test_g1_what_was_applied_is_there_after_reopening(self, backend: Backend, open_backend: Open) -> None:
        task = full_task()
        await backend.apply([Insert(task)])
        await backend.beat(make_instance("one"))
        await backend.close()
        again = await open_backend()
        assert await again.get(task.task_id) == task
        assert [instance.instance_id for instance in await again.instances()] == ["one"]

    async def test_g3_a_write_with_an_old_token_is_refused(self, backend: Backend) -> None:
        task = make_task(status=TaskStatus.RUNNING)
        await backend.apply([Insert(task)])
        [taken] = await backend.take_over({"one"}, "two", None, 10)
        bystander = make_task()
        results = await backend.apply([Update(finish(task)), Insert(bystander), Update(finish(taken))])
        assert results == [STALE, APPLIED, APPLIED]
        assert await backend.get(task.task_id) == finish(taken)
        assert await backend.get(bystander.task_id) == bystander
        assert await backend.apply([Insert(task)]) == [STALE]

    async def test_g3_an_update_of_a_task_that_is_gone_is_refused(self, backend: Backend) -> None:
        assert await backend.apply([Update(make_task())]) == [STALE]

    async def test_g3_only_the_owner_may_write(self, backend: Backend) -> None:
        task = make_task()
        await backend.apply([Insert(task)])
        stranger = finish(task)
        stranger.instance = "two"
        assert await backend.apply([Update(stranger)]) == [STALE]
        assert await backend.get(task.task_id) == task

    async def test_g5_a_held_key_refuses_a_second_task_and_names_the_first(self, backend: Backend) -> None:
        first, second, other = (make_task(idempotency_key=key, tags={"a": "b"}) for key in ("k", "k", "K"))
        assert await backend.apply([Insert(first)]) == [APPLIED]
        results = await backend.apply([Insert(second), Insert(other)])
        assert results == [Applied(Outcome.DUPLICATE, first.task_id), APPLIED]
        assert await backend.get(second.task_id) is None
        assert await backend.holder_of("k") == first.task_id
        assert await backend.holder_of("K") == other.task_id
        assert ids((await backend.page(TaskQuery(tag=("a", "b")))).records) == [other.task_id, first.task_id]

    @pytest.mark.parametrize("status", sorted(TaskStatus))
    async def test_g5_a_key_is_held_while_pending_running_or_successful(
        self, backend: Backend, status: TaskStatus
    ) -> None:
        first, second = make_task(idempotency_key="k"), make_task(idempotency_key="k")
        await backend.apply([Insert(first)])
        assert await backend.apply([Update(finish(first, status)), Insert(second)]) == (
            [APPLIED, Applied(Outcome.DUPLICATE, first.task_id)]
            if status in (TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.SUCCESS)
            else [APPLIED, APPLIED]
        )

    async def test_g5_a_batch_releases_a_key_only_for_what_follows(self, backend: Backend) -> None:
        first, second = make_task(idempotency_key="k"), make_task(idempotency_key="k")
        await backend.apply([Insert(first)])
        results = await backend.apply([Insert(second), Update(finish(first, TaskStatus.FAILED))])
        assert results == [Applied(Outcome.DUPLICATE, first.task_id), APPLIED]
        assert await backend.holder_of("k") is None

    @pytest.mark.parametrize("key", ["", " ", "k ", "日本語" * 500, "sha256:", "a\nb"])
    async def test_g5_every_text_is_a_key_of_its_own(self, backend: Backend, key: str) -> None:
        task, longer = make_task(idempotency_key=key), make_task(idempotency_key=key + " ")
        assert await backend.apply([Insert(task), Insert(longer)]) == [APPLIED, APPLIED]
        assert await backend.holder_of(key) == task.task_id

    async def test_g5_of_simultaneous_inserts_with_one_key_one_wins(self, open_backend: Open) -> None:
        backends = [await open_backend() for _ in range(2)]

        async def insert(backend: Backend, order: int) -> list[tuple[TaskRecord, Applied]]:
            tasks = [make_task(idempotency_key=f"k{n}") for n in range(20)][::order]
            return list(zip(tasks, await backend.apply([Insert(task) for task in tasks]), strict=True))

        runs = await asyncio.gather(*(insert(b, order) for b in backends for order in (1, -1) for _ in range(3)))
        results = [pair for run in runs for pair in run]
        winners = {t.idempotency_key: t.task_id for t, applied in results if applied == APPLIED}
        assert Counter(t.idempotency_key for t, applied in results if applied == APPLIED) == {
            f"k{n}": 1 for n in range(20)
        }
        for task, applied in results:
            if applied != APPLIED:
                assert applied == Applied(Outcome.DUPLICATE, winners[task.idempotency_key])
        assert (await backends[0].counts(TaskQuery())).total == 20

    async def test_a_name_is_used_once_ever(self, backend: Backend) -> None:
        first, second, third = make_task(), make_task(), make_task()
        assert await backend.apply([Insert(first, "nightly:1")]) == [APPLIED]
        refused = Applied(Outcome.DUPLICATE, first.task_id)
        assert await backend.apply([Insert(second, "nightly:1"), Insert(third, "nightly:2")]) == [refused, APPLIED]
        assert await backend.get(second.task_id) is None
        assert await backend.apply([Insert(first, "nightly:1")]) == [APPLIED]
        await backend.apply([Update(finish(first))])
        assert await backend.apply([Insert(second, "nightly:1")]) == [refused]
        assert await backend.delete_finished(BASE + timedelta(days=365), 10) == 1
        assert await backend.apply([Insert(second, "nightly:1")]) == [refused]
        assert (await backend.counts(TaskQuery())).total == 1

    async def test_one_name_in_one_batch_is_used_by_the_first(self, backend: Backend) -> None:
        first, second = make_task(), make_task()
        results = await backend.apply([Insert(first, "x"), Insert(second, "x"), Update(finish(first))])
        assert results == [APPLIED, Applied(Outcome.DUPLICATE, first.task_id), APPLIED]

    async def test_a_refused_task_leaves_its_name_to_another(self, backend: Backend) -> None:
        holder, refused, other = make_task(idempotency_key="k"), make_task(idempotency_key="k"), make_task()
        await backend.apply([Insert(holder)])
        assert await backend.apply([Insert(refused, "x")]) == [Applied(Outcome.DUPLICATE, holder.task_id)]
        assert await backend.apply([Insert(other, "x")]) == [APPLIED]

    async def test_of_simultaneous_inserts_with_one_name_one_wins(self, open_backend: Open) -> None:
        backends = [await open_backend() for _ in range(3)]

        async def insert(backend: Backend) -> list[Applied]:
            return await backend.apply([Insert(make_task(), f"n:{n}") for n in range(20)])

        runs = await asyncio.gather(*(insert(backend) for backend in backends for _ in range(2)))
        assert Counter(applied == APPLIED for run in runs for applied in run) == {True: 20, False: 100}
        assert (await backends[0].counts(TaskQuery())).total == 20

    async def test_the_latest_of_the_names_with_a_prefix_is_known(self, backend: Backend) -> None:
        names = ["a:1", "a:10", "a:2", "A:9", "a;", "ä:1", "日本:1"]
        tasks = {name: make_task() for name in names}
        await backend.apply([Insert(task, name) for name, task in tasks.items()])
        assert await backend.latest_once("a:") == ("a:2", tasks["a:2"].task_id)
        assert await backend.latest_once("日") == ("日本:1", tasks["日本:1"].task_id)
        assert await backend.latest_once("b") is None
        assert await backend.forget_once("a:", "a:2", 1) == 1
        assert await backend.forget_once("a:", "a:2", 10) == 1
        assert await backend.forget_once("a:", "a:2", 10) == 0
        again = make_task()
        assert await backend.apply([Insert(again, "a:10"), Insert(make_task(), "a;")]) == [
            APPLIED,
            Applied(Outcome.DUPLICATE, tasks["a;"].task_id),
        ]

    async def test_logs_come_back_in_order_and_are_written_once(self, backend: Backend) -> None:
        task = make_task()
        entries = [LogEntry(n, BASE + timedelta(microseconds=n), "info", TEXT, n, {"n": [n, None]}) for n in range(5)]
        await backend.apply([Insert(task), AppendLogs(task.task_id, tuple(entries[3:]))])
        other = LogEntry(3, BASE, "error", "another", 0, {})
        await backend.apply([AppendLogs(task.task_id, (*entries[:3], other)), AppendLogs(task.task_id, ())])
        assert await backend.logs(task.task_id) == entries

    async def test_the_log_of_a_task_that_is_not_stored_is_dropped(self, backend: Backend) -> None:
        entry = LogEntry(0, BASE, "info", TEXT, 0, {})
        holder, refused, gone = make_task(idempotency_key="k"), make_task(idempotency_key="k"), finish(make_task())
        await backend.apply([Insert(gone)])
        assert await backend.delete_finished(BASE + timedelta(days=36_500), 10) == 1
        late = AppendLogs(gone.task_id, (entry,))
        await backend.apply([Insert(holder), AppendLogs(holder.task_id, (entry,)), late])
        results = await backend.apply([Insert(refused), AppendLogs(refused.task_id, (entry,)), late])
        assert results == [Applied(Outcome.DUPLICATE, holder.task_id), APPLIED, APPLIED]
        logs = [await backend.logs(task.task_id) for task in (holder, refused, gone)]
        assert logs == [[entry], [], []]

    async def test_pages_and_counts_agree_with_a_plain_filter(self, backend: Backend) -> None:
        tasks = population()
        await backend.apply([Insert(task) for task in tasks])
        await backend.apply([Update(finish(t, t.status)) for t in tasks if t.status in FINISHED_STATUSES])
        for query in queries(tasks):
            expected = [task for task in reversed(tasks) if matches(task, query)]
            found: list[str] = []
            cursor: str | None = None
            while True:
                page = await backend.page(replace(query, limit=7, cursor=cursor))
                assert len(page.records) <= 7
                found += ids(page.records)
                if (cursor := page.next_cursor) is None:
                    break
            assert found == ids(expected), query
            counts = await backend.counts(query)
            assert counts.by_status == Counter(task.status for task in expected), query
            durations = [task.duration or 0.0 for task in expected if task.status in FINISHED_STATUSES]
            assert counts.duration_count == len(durations), query
            assert counts.duration_sum == pytest.approx(sum(durations)), query

    @pytest.mark.parametrize("count_limit", [1, 10, 1_000])
    async def test_totals_and_counts_are_exact_or_say_that_they_are_bounds(
        self, backend: Backend, count_limit: int
    ) -> None:
        tasks = population()
        await backend.apply([Insert(task) for task in tasks])
        await backend.apply([Update(finish(t, t.status)) for t in tasks if t.status in FINISHED_STATUSES])
        for query in queries(tasks):
            expected = [task for task in reversed(tasks) if matches(task, query)]
            assert (await backend.page(query)).total is None, query
            cursor: str | None = None
            for _ in range(2):
                page = await backend.page(replace(query, limit=7, cursor=cursor, count_limit=count_limit))
                assert page.total is not None, query
                least = len(expected) if page.total_exact else count_limit
                assert least <= page.total <= len(expected), query
                assert page.total_exact or page.total < 1_000, query
                if (cursor := page.next_cursor) is None:
                    break
            counts = await backend.counts(replace(query, count_limit=count_limit))
            by_status = Counter(task.status for task in expected)
            if counts.exact:
                assert counts.by_status == by_status, query
            else:
                assert count_limit <= counts.total <= len(expected), query
                assert Counter(counts.by_status) <= by_status, query

    async def test_paging_continues_when_the_task_of_the_cursor_was_deleted(self, backend: Backend) -> None:
        tasks = [make_task() for _ in range(4)]
        await backend.apply([Insert(task) for task in tasks])
        await backend.apply([Update(finish(tasks[2]))])
        page = await backend.page(TaskQuery(limit=2))
        assert page.next_cursor == tasks[2].task_id
        await backend.delete_finished(BASE + timedelta(days=365), 10)
        rest = await backend.page(TaskQuery(limit=2, cursor=page.next_cursor))
        assert ids(rest.records) == ids([tasks[1], tasks[0]])
