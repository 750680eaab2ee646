"""Compares the ledger after a storm with the books: what was lost, what was done twice, what contradicts itself."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from taskflow_otel.errors import IllegalTransitionError
from taskflow_otel.model.record import TaskRecord, TimelineEntry
from taskflow_otel.model.status import TaskStatus, Transition, next_status
from tests.chaos.books import Acknowledgement, Answers, Executions, Note, Refusal
from tests.chaos.kinds import KINDS, Kind

_ENDINGS = {
    Transition.SUCCEEDED,
    Transition.FAILED,
    Transition.CANCELLED,
    Transition.INTERRUPTED,
    Transition.REJECTED,
}
_NEVER_RAN = {TaskStatus.CANCELLED, TaskStatus.REJECTED}
_MAX_CRASHES = 3
_TIMER_SLACK = 0.05
"""Seconds by which two clocks of one machine, the wall clock and the monotonic one, may drift apart in a storm."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was not kept, and everything that is known about the task."""

    rule: str
    detail: str
    task_id: str | None = None
    timeline: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Findings:
    """What the check found. `lost`: acknowledged, and not in the ledger."""

    violations: list[Violation] = field(default_factory=list)
    lost: int = 0
    in_doubt: list[str] = field(default_factory=list)
    """Answered 503 by a process that died before it could take back a commit whose fate it did not know."""
    vanished_duplicates: int = 0
    """Acknowledged under a key that another task holds; the note that it was a duplicate died with its process."""


class Check:
    """One comparison.

    `died_soon`: whether a process had trouble within seconds of this refusal. `drained`: the processes that ended in
    order, and could write what they had to.
    """

    def __init__(
        self,
        answers: Answers,
        executions: Executions,
        records: Mapping[str, TaskRecord],
        died_soon: Callable[[Refusal], bool],
        drained: frozenset[int] = frozenset(),
    ) -> None:
        self._answers = answers
        self._executions = executions
        self._records = records
        self._died_soon = died_soon
        self._drained = drained
        self._findings = Findings()

    def run(self) -> Findings:
        """Check everything once."""
        self._acknowledged()
        self._refused()
        self._failed()
        for answer in self._answers.unexpected:
            self._add("every answer and every drain ends well", answer)
        for task_id in self._executions.by_task.keys() - self._records.keys():
            kind = KINDS[self._executions.by_task[task_id][0].kind]
            if kind.persisted:
                self._add("what ran is in the ledger", "it ran, and has no record", task_id)
        self._ends()
        for record in self._records.values():
            for rule, detail in self._record(record):
                self._add(rule, detail, record.task_id)
        self._keys()
        return self._findings

    def _add(self, rule: str, detail: str, task_id: str | None = None) -> None:
        record = self._records.get(task_id or "")
        self._findings.violations.append(
            Violation(
                rule,
                detail,
                task_id,
                tuple(_lines(record)) if record else (),
                tuple(
                    f"{n.word} attempt {n.attempt} pid {n.pid}" for n in self._executions.by_task.get(task_id or "", ())
                ),
            )
        )

    def _acknowledged(self) -> None:
        keyed = {record.idempotency_key for record in self._records.values()}
        for ack in self._answers.acknowledged:
            record = self._records.get(ack.task_id)
            if record is None:
                if not KINDS[ack.kind].persisted:
                    continue
                if ack.key is not None and ack.key in keyed:
                    self._findings.vanished_duplicates += 1
                    continue
                self._findings.lost += 1
                self._add("acknowledged is kept", f"request {ack.number} ({ack.kind}) is lost", ack.task_id)
            elif _is_duplicate(ack, record):
                original = self._records.get(record.duplicate_of or "")
                if original is None or original.idempotency_key != ack.key:
                    self._add("a duplicate names its original", f"it names {record.duplicate_of}", ack.task_id)
            elif record.status in _NEVER_RAN and record.persisted:
                self._add("acknowledged runs", f"it is {record.status} ({record.reason})", ack.task_id)
            elif record.active_key is None and self._ended_before(record, ack.sent_at):
                self._add("a key is free after a failure", f"request {ack.number} came after the end", ack.task_id)

    def _ended_before(self, record: TaskRecord, moment: datetime) -> bool:
        # The time in the timeline is taken before the commit, which may take long while the database restarts.
        told = self._executions.ended.get(record.task_id)
        return record.status.finished and told is not None and told < moment

    def _refused(self) -> None:
        entered: dict[int, list[Note]] = defaultdict(list)
        for note in self._executions.entered():
            entered[note.number].append(note)
        for refusal in self._answers.refused:
            notes = entered[refusal.number]
            if notes and self._died_soon(refusal) and refusal.pid not in {note.pid for note in notes}:
                task_id = notes[0].task_id
                story = "; ".join(_lines(self._records[task_id])) if task_id in self._records else "no record"
                self._findings.in_doubt.append(
                    f"request {refusal.number}, refused by {refusal.pid}: {task_id}: {story}"
                )
            elif notes:
                self._add("refused never runs", f"request {refusal.number} was answered 503 and ran", notes[0].task_id)

    def _failed(self) -> None:
        """The tasks of a request that failed by itself never run, wherever their row may be by now."""
        for note in self._executions.entered():
            if note.number in self._answers.failed:
                how = self._answers.failed[note.number]
                self._add("a failed request's task never runs", f"request {note.number} ({how})", note.task_id)
        for record in self._records.values():
            if int(record.tags["number"]) in self._answers.failed and record.reason != "request_failed":
                self._add("a failed request's task says so", f"it is {record.status} ({record.reason})", record.task_id)

    def _ends(self) -> None:
        """Observers get one end of each persisted task.

        Of another task, a process may publish the end and die before it has written it; the next one ends it again.
        """
        for task_id, number in self._executions.ends.items():
            record = self._records.get(task_id)
            if number > 1 and record is not None and KINDS[record.func_name].persisted:
                self._add("one end is published", f"observers were given {number} ends", task_id)

    def _record(self, record: TaskRecord) -> Iterator[tuple[str, str]]:
        if not record.status.finished:
            yield "everything ends", f"it is still {record.status} ({record.reason}), owned by {record.instance}"
            return
        yield from _replay(record)
        moved = [entry for entry in record.timeline if entry.transition is not Transition.OBJECTIVE_MISSED]
        for start, end in itertools.pairwise(moved):
            if end.reason == "process_died" and start.transition is Transition.STARTED and self._has_drained(start):
                yield "a drain forgets nothing", f"attempt {start.attempt} was left open by {start.instance}"
        counts = Counter(entry.transition for entry in record.timeline)
        if counts[Transition.RETRY_SCHEDULED] != record.retries_used:
            yield "only failures use retries", f"{record.retries_used} used, {counts[Transition.RETRY_SCHEDULED]} waits"
        kind = KINDS[record.func_name]
        if record.persisted != kind.persisted:
            yield "options are kept", f"persisted is {record.persisted}"
        if kind.persisted:
            yield from self._runs(record, kind)

    def _has_drained(self, entry: TimelineEntry) -> bool:
        return any(f"-{pid}-" in entry.instance for pid in self._drained)

    def _runs(self, record: TaskRecord, kind: Kind) -> Iterator[tuple[str, str]]:
        entered = self._executions.of(record.task_id, "enter")
        left = {(note.attempt, note.pid) for note in self._executions.of(record.task_id, "leave")}
        raised = {(note.attempt, note.pid) for note in self._executions.of(record.task_id, "raise")}
        if record.status in _NEVER_RAN:
            if entered:
                yield "what never ran was never entered", f"it is {record.status} and was entered"
            return
        early = [note for note in entered if (note.at - record.created_at).total_seconds() < kind.delay - _TIMER_SLACK]
        if early:
            yield "a delay is kept", f"entered at {early[0].at}, with {kind.delay:g} s after {record.created_at}"
        for attempt, number in Counter(note.attempt for note in entered).items():
            if number > 1:
                yield "one entry for each attempt", f"attempt {attempt} was entered {number} times"
        starts = [
            (entry.attempt, entry.instance) for entry in record.timeline if entry.transition is Transition.STARTED
        ]
        for note in entered:
            if not any(attempt == note.attempt and f"-{note.pid}-" in instance for attempt, instance in starts):
                yield "every entry was claimed", f"attempt {note.attempt} of process {note.pid} is not in the timeline"
        final = {
            (note.attempt, note.pid) for note in entered if starts and _claimed_by(note.pid, note.attempt, starts[-1])
        }
        reason = record.timeline[-1].reason
        died = [entry for entry in record.timeline if entry.reason == "process_died"]
        match record.status:
            case TaskStatus.SUCCESS if not final & left:
                yield "an outcome is the function's", "success, and the last attempt did not return"
            case TaskStatus.FAILED if reason == "poison":
                if not kind.requeue or len(died) != _MAX_CRASHES - 1:
                    yield "poison is what crashed three times", f"{len(died)} interruptions before"
            case TaskStatus.FAILED:
                if not final & raised:
                    yield "an outcome is the function's", "failed, and the last attempt did not raise"
                if not record.error:
                    yield "a failure says why", "it failed without an error"
                if record.retries_used != kind.retries:
                    yield "every retry is used", f"failed after {record.retries_used} of {kind.retries} retries"
            case TaskStatus.INTERRUPTED if kind.requeue:
                yield "what may run again does", "it is interrupted, and its type is requeued"
        if not kind.requeue:
            yield from self._no_rerun(record, {(note.attempt, note.pid) for note in entered} - left - raised)

    @staticmethod
    def _no_rerun(record: TaskRecord, unended: set[tuple[int, int]]) -> Iterator[tuple[str, str]]:
        """A type that is not requeued: an attempt that was entered and did not end is its last."""
        if unended and (
            record.status is not TaskStatus.INTERRUPTED or {attempt for attempt, _ in unended} != {record.attempt}
        ):
            yield "reruns only where promised", f"attempts {sorted(unended)} did not end, and it is {record.status}"
        before: TaskStatus | None = None
        for entry in record.timeline:
            if entry.transition is Transition.RECOVERED and before is TaskStatus.RUNNING:
                yield "reruns only where promised", "it was requeued out of a run"
            before = next_status(before, entry.transition)

    def _keys(self) -> None:
        """Of all tasks with one key at most one is live or successful: their runs do not overlap."""
        holders: dict[str, list[TaskRecord]] = defaultdict(list)
        for record in self._records.values():
            if record.idempotency_key is not None and record.status not in _NEVER_RAN:
                holders[record.idempotency_key].append(record)
        for key, records in holders.items():
            if sum(record.status is TaskStatus.SUCCESS for record in records) > 1:
                self._add("one success for each key", f"{key}: {[r.task_id for r in records]}", records[0].task_id)
            spans = sorted((_span(record), record.task_id) for record in records if record.status.finished)
            for ((_, ended), first), ((began, _), second) in itertools.pairwise(spans):
                if began < ended:
                    self._add("one holder of a key at a time", f"{key}: {first} and {second} overlap", second)


def _is_duplicate(ack: Acknowledgement, record: TaskRecord) -> bool:
    return ack.key is not None and record.status is TaskStatus.REJECTED and record.duplicate_of is not None


def _claimed_by(pid: int, attempt: int, start: tuple[int, str]) -> bool:
    return start[0] == attempt and f"-{pid}-" in start[1]


def _span(record: TaskRecord) -> tuple[datetime, datetime]:
    """From the first start, after the key was taken, to the end, after which it was released."""
    starts = [entry.timestamp for entry in record.timeline if entry.transition is Transition.STARTED]
    ended = record.timeline[-1].timestamp
    return (starts[0] if starts else ended), ended


def _replay(record: TaskRecord) -> Iterator[tuple[str, str]]:
    status: TaskStatus | None = None
    try:
        for entry in record.timeline:
            status = next_status(status, entry.transition)
    except IllegalTransitionError as exc:
        yield "a timeline is legal", str(exc)
        return
    if status is not record.status:
        yield "a timeline ends in the status", f"{status} is not {record.status}"
    endings = sum(entry.transition in _ENDINGS for entry in record.timeline)
    if endings != 1:
        yield "one outcome", f"{endings} endings"
    starts = sum(entry.transition is Transition.STARTED for entry in record.timeline)
    if starts and record.attempt != starts - 1:
        yield "attempts are counted", f"attempt {record.attempt} after {starts} starts"


def _lines(record: TaskRecord) -> Iterable[str]:
    return (
        f"{entry.timestamp:%H:%M:%S.%f} {entry.transition} attempt {entry.attempt} on {entry.instance}"
        + (f" ({entry.reason})" if entry.reason else "")
        for entry in record.timeline
    )
