"""The check of a storm finds what it is there to find: a sound world passes, and each thing gone wrong is named."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from taskflow_otel.model.record import TaskRecord, TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition
from tests.chaos.books import Acknowledgement, Answers, Executions, Note
from tests.chaos.check import Check, Findings
from tests.chaos.kinds import KINDS

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
FIRST, SECOND = 11, 22
"""Process ids."""


class World:
    """Tasks that were interrupted (`slow`), ran twice (`again`), used all retries (`doomed`), and a duplicate."""

    def __init__(self) -> None:
        self.answers = Answers()
        self.executions = Executions()
        self.records: dict[str, TaskRecord] = {}
        self.died_soon = False
        self.drained: frozenset[int] = frozenset()
        t = Transition
        self.task("slow", TaskStatus.INTERRUPTED, (t.ENQUEUED, FIRST), (t.STARTED, FIRST), (t.INTERRUPTED, SECOND))
        self.note("slow", "enter", 0, FIRST)
        self.task("again", TaskStatus.SUCCESS, (t.ENQUEUED, FIRST), (t.STARTED, FIRST), (t.RECOVERED, SECOND),
                  (t.STARTED, SECOND), (t.SUCCEEDED, SECOND))  # fmt: skip
        self.note("again", "enter", 0, FIRST)
        self.note("again", "enter", 1, SECOND)
        self.note("again", "leave", 1, SECOND)
        failures = [(t.STARTED, FIRST), (t.RETRY_SCHEDULED, FIRST)] * 2
        doomed = self.task(
            "doomed", TaskStatus.FAILED, (t.ENQUEUED, FIRST), *failures, (t.STARTED, FIRST), (t.FAILED, FIRST)
        )
        doomed.retries_used, doomed.error = 2, "it is doomed"
        for attempt in range(3):
            self.note("doomed", "enter", attempt, FIRST)
            self.note("doomed", "raise", attempt, FIRST)
        once = self.task("once", TaskStatus.SUCCESS, (t.ENQUEUED, FIRST), (t.STARTED, FIRST), (t.SUCCEEDED, FIRST))
        self.note("once", "enter", 0, FIRST)
        self.note("once", "leave", 0, FIRST)
        copy = self.task("once", TaskStatus.REJECTED, (t.REJECTED, SECOND), task_id="copy")
        copy.duplicate_of = "once"
        self.task("delayed", TaskStatus.SUCCESS, (t.ENQUEUED, FIRST), (t.STARTED, FIRST), (t.SUCCEEDED, FIRST))
        self.note("delayed", "enter", 0, FIRST, seconds=KINDS["delayed"].delay)
        self.note("delayed", "leave", 0, FIRST, seconds=KINDS["delayed"].delay)
        once.idempotency_key = copy.idempotency_key = "key"

    def task(
        self, kind: str, status: TaskStatus, *story: tuple[Transition, int], task_id: str | None = None
    ) -> TaskRecord:
        """A stored and acknowledged task with this timeline."""
        task_id = task_id or kind
        number = len(self.records)
        persisted = KINDS[kind].persisted
        record = TaskRecord(task_id, kind, status, NOON, persisted=persisted, tags={"number": str(number)})
        self.records[task_id] = record
        attempt = -1
        for second, (transition, pid) in enumerate(story):
            attempt += transition is Transition.STARTED
            moment = NOON + timedelta(seconds=second)
            record.timeline += (TimelineEntry(transition, moment, max(0, attempt), f"host-{pid}-x"),)
        if status.finished:
            self.executions.ended[task_id] = record.timeline[-1].timestamp
        record.attempt = max(0, attempt)
        key = "key" if kind == "once" else None
        self.answers.acknowledged.append(Acknowledgement(task_id, number, kind, key, NOON))
        return record

    def note(self, task_id: str, word: str, attempt: int, pid: int, seconds: float = 1) -> None:
        """One line that an execution wrote."""
        kind, at = self.records[task_id].func_name, NOON + timedelta(seconds=seconds)
        self.executions.by_task[task_id].append(Note(word, task_id, attempt, pid, kind, 100, at))

    def check(self) -> Findings:
        return Check(self.answers, self.executions, self.records, lambda _: self.died_soon, self.drained).run()

    def strike(self, task_id: str, place: int) -> None:
        """Take a line out of a timeline."""
        record = self.records[task_id]
        lines = list(record.timeline)
        del lines[place]
        record.timeline = tuple(lines)


def test_a_sound_world_passes() -> None:
    assert World().check() == Findings()


def lose(world: World) -> None:
    del world.records["slow"]
    world.executions.by_task.clear()


def run_what_was_refused(world: World) -> None:
    world.answers.refuse(100, FIRST)


def overwrite_by_a_late_finisher(world: World) -> None:
    world.task("again", TaskStatus.SUCCESS, (Transition.ENQUEUED, FIRST), (Transition.STARTED, FIRST),
               (Transition.SUCCEEDED, FIRST))  # fmt: skip


def end_twice(world: World) -> None:
    record = world.records["again"]
    record.timeline += record.timeline[-1:]


def run_again_unasked(world: World) -> None:
    t = Transition
    world.task("slow", TaskStatus.SUCCESS, (t.ENQUEUED, FIRST), (t.STARTED, FIRST), (t.RECOVERED, SECOND),
               (t.STARTED, SECOND), (t.SUCCEEDED, SECOND))  # fmt: skip
    world.note("slow", "enter", 1, SECOND)
    world.note("slow", "leave", 1, SECOND)


def free_key_not_given(world: World) -> None:
    world.records["once"].status = TaskStatus.FAILED
    world.answers.acknowledged.append(Acknowledgement("once", 9, "once", "key", NOON + timedelta(hours=1)))


def two_successes(world: World) -> None:
    t = Transition
    world.task("once", TaskStatus.SUCCESS, (t.ENQUEUED, FIRST), (t.STARTED, FIRST), (t.SUCCEEDED, FIRST), task_id="two")
    world.records["two"].idempotency_key = "key"


def leave_unfinished(world: World) -> None:
    world.records["again"].status = TaskStatus.PENDING


def consume_a_retry(world: World) -> None:
    world.records["again"].retries_used = 1


def fail_too_early(world: World) -> None:
    world.records["doomed"].retries_used = 1
    world.strike("doomed", 1)
    world.strike("doomed", 1)


def interrupt_what_is_requeued(world: World) -> None:
    world.records["slow"].func_name = "again"


def acknowledge_what_never_runs(world: World) -> None:
    world.task("plain", TaskStatus.CANCELLED, (Transition.ENQUEUED, FIRST), (Transition.CANCELLED, FIRST))


def run_without_a_record(world: World) -> None:
    del world.records["slow"]


def enter_twice(world: World) -> None:
    world.note("again", "enter", 1, SECOND)


def succeed_without_returning(world: World) -> None:
    world.executions.by_task["again"].pop()


def fail_without_raising(world: World) -> None:
    world.executions.by_task["doomed"].pop()


def fail_without_a_word(world: World) -> None:
    world.records["doomed"].error = None


def run_what_was_rejected(world: World) -> None:
    world.note("copy", "enter", 0, FIRST)


def poison_too_soon(world: World) -> None:
    record = world.records["doomed"]
    *lines, last = record.timeline
    record.timeline = (*lines, TimelineEntry(Transition.FAILED, last.timestamp, 2, last.instance, "poison"))


def name_no_original(world: World) -> None:
    world.records["copy"].duplicate_of = "nobody"


def run_what_failed(world: World) -> None:
    world.answers.failed[100] = "failing"


def leave_the_row_of_what_failed(world: World) -> None:
    world.answers.failed[int(world.records["again"].tags["number"])] = "failing"


def forget_the_delay(world: World) -> None:
    world.note("delayed", "enter", 0, FIRST, seconds=KINDS["delayed"].delay - 1)


def forget_an_attempt_in_a_drain(world: World) -> None:
    record = world.records["slow"]
    *lines, last = record.timeline
    ended = TimelineEntry(last.transition, last.timestamp, last.attempt, last.instance, "process_died")
    record.timeline = (*lines, ended)
    world.drained = frozenset({FIRST})


def publish_two_ends(world: World) -> None:
    world.executions.ends["slow"] = 2


def answer_with_an_error(world: World) -> None:
    world.answers.unexpected.append("500")


@pytest.mark.parametrize(
    ("harm", "rule"),
    [
        (lose, "acknowledged is kept"),
        (run_what_was_refused, "refused never runs"),
        (overwrite_by_a_late_finisher, "every entry was claimed"),
        (end_twice, "a timeline is legal"),
        (run_again_unasked, "reruns only where promised"),
        (free_key_not_given, "a key is free after a failure"),
        (two_successes, "one success for each key"),
        (two_successes, "one holder of a key at a time"),
        (leave_unfinished, "everything ends"),
        (consume_a_retry, "only failures use retries"),
        (fail_too_early, "every retry is used"),
        (interrupt_what_is_requeued, "what may run again does"),
        (acknowledge_what_never_runs, "acknowledged runs"),
        (run_without_a_record, "what ran is in the ledger"),
        (enter_twice, "one entry for each attempt"),
        (succeed_without_returning, "an outcome is the function's"),
        (fail_without_raising, "an outcome is the function's"),
        (fail_without_a_word, "a failure says why"),
        (run_what_was_rejected, "what never ran was never entered"),
        (poison_too_soon, "poison is what crashed three times"),
        (run_what_failed, "a failed request's task never runs"),
        (leave_the_row_of_what_failed, "a failed request's task says so"),
        (forget_the_delay, "a delay is kept"),
        (forget_an_attempt_in_a_drain, "a drain forgets nothing"),
        (publish_two_ends, "one end is published"),
        (name_no_original, "a duplicate names its original"),
        (answer_with_an_error, "every answer and every drain ends well"),
    ],
)
def test_what_went_wrong_is_named(harm: Callable[[World], None], rule: str) -> None:
    world = World()
    harm(world)
    assert rule in {violation.rule for violation in world.check().violations}


def test_a_loss_is_counted() -> None:
    world = World()
    lose(world)
    assert world.check().lost == 1


def test_a_refusal_by_a_process_that_died_at_once_is_in_doubt_unless_that_process_ran_it() -> None:
    world = World()
    world.died_soon = True
    world.answers.refuse(100, 33)
    findings = world.check()
    assert (findings.violations, len(findings.in_doubt)) == ([], 1)
    run_what_was_refused(world)
    assert [violation.rule for violation in world.check().violations] == ["refused never runs"]


def test_a_duplicate_whose_note_died_with_its_process_is_no_loss() -> None:
    world = World()
    del world.records["copy"]
    findings = world.check()
    assert (findings.violations, findings.vanished_duplicates) == ([], 1)


def test_a_task_that_is_not_persisted_may_be_published_as_ended_by_two_processes() -> None:
    world = World()
    t = Transition
    world.task("history", TaskStatus.CANCELLED, (t.ENQUEUED, FIRST), (t.CANCELLED, SECOND))
    world.note("history", "enter", 0, FIRST)
    world.note("history", "leave", 0, FIRST)
    world.executions.ends["history"] = 2
    assert world.check() == Findings()
