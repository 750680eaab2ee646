"""The check of schedules finds what it is there to find: a sound world passes, and each thing gone wrong is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.schedule import due, make_rule
from taskflow_otel.model.status import TaskStatus
from tests.chaos.schedules_check import STEPS, Check, Findings, Missed, Notes, Run, read_notes

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
END = NOON + timedelta(seconds=125)
DOWN = (NOON + timedelta(seconds=50), NOON + timedelta(seconds=55))
KILLED, LIVING = 11, 22
"""Process ids."""


class World:
    """Two minutes, in which for five seconds no instance was there; what was under way before was run again."""

    def __init__(self) -> None:
        self.records: dict[str, TaskRecord] = {}
        self.notes = Notes()
        self.deaths = {KILLED: DOWN[0].timestamp()}
        for name, step in STEPS.items():
            moment = NOON
            while moment < END:
                made = DOWN[1] if DOWN[0] < moment < DOWN[1] else moment
                if name != "default" or DOWN[1] - moment <= timedelta(seconds=1) or made == moment:
                    self.task(name, moment, made)
                moment += step
        self.notes.missed.append(Missed("default", 3, DOWN[1], LIVING, DOWN[1].timestamp()))
        again = self.at("second", 50)
        self.notes.runs[again] = [Run(KILLED, DOWN[0].timestamp() - 0.01, None), *self.notes.runs[again]]
        ended = self.at("default", 50)
        self.records[ended].status = TaskStatus.INTERRUPTED
        self.notes.runs[ended] = [Run(KILLED, DOWN[0].timestamp() - 0.01, None)]

    def task(self, name: str, moment: datetime, made: datetime) -> None:
        """A task that was made at a moment, and ran."""
        task_id = f"{name} {(moment - NOON).total_seconds():g} {len(self.records)}"
        self.records[task_id] = TaskRecord(task_id, name, TaskStatus.SUCCESS, made, run_at=moment)
        self.notes.runs[task_id] = [Run(LIVING, made.timestamp(), made.timestamp() + 0.1)]

    def at(self, name: str, second: float) -> str:
        """The task of a firing time."""
        [task_id] = (key for key in self.records if key.startswith(f"{name} {second:g} "))
        return task_id

    def check(self) -> Findings:
        return Check(self.records.values(), self.notes, self.deaths, NOON, END).run()


def test_a_sound_world_passes() -> None:
    world = World()
    found = world.check()
    assert found.violations == []
    assert found.gaps == {"fast": 0, "second": 0, "minute": 0, "default": 3}
    assert found.fired == {"fast": 625, "second": 125, "minute": 3, "default": 122}
    assert (found.runs, found.reruns, found.interrupted) == (len(world.records) + 1, 1, 1)


def fire_twice(world: World) -> None:
    world.task("second", NOON + timedelta(seconds=9), NOON + timedelta(seconds=9))


def leave_out(world: World) -> None:
    del world.records[world.at("fast", 70.2)]


def fire_early(world: World) -> None:
    world.records[world.at("minute", 60)].created_at -= timedelta(milliseconds=1)


def fire_between(world: World) -> None:
    world.task("second", NOON + timedelta(seconds=9.5), NOON + timedelta(seconds=9.5))


def stop_early(world: World) -> None:
    for second in (60, 120):
        del world.records[world.at("minute", second)]


def never_fire(world: World) -> None:
    world.records = {key: record for key, record in world.records.items() if record.func_name != "second"}


def skip_untold(world: World) -> None:
    world.notes.missed.clear()


def skip_while_others_fire(world: World) -> None:
    del world.records[world.at("default", 100)]
    world.notes.missed.append(Missed("default", 1, NOON + timedelta(seconds=102), LIVING, 0))


def skip_the_start(world: World) -> None:
    for second in range(5):
        del world.records[world.at("default", second)]


def lose_a_run(world: World) -> None:
    del world.notes.runs[world.at("fast", 3)]


def run_twice(world: World) -> None:
    world.notes.runs[world.at("fast", 3)] *= 2


def rerun_the_default(world: World) -> None:
    ended = world.at("default", 50)
    world.records[ended].status = TaskStatus.SUCCESS
    world.notes.runs[ended].append(Run(LIVING, DOWN[1].timestamp(), DOWN[1].timestamp()))


def interrupt_a_living_process(world: World) -> None:
    world.records[world.at("default", 9)].status = TaskStatus.INTERRUPTED


def interrupt_what_is_requeued(world: World) -> None:
    world.records[world.at("second", 50)].status = TaskStatus.INTERRUPTED


def leave_pending(world: World) -> None:
    world.records[world.at("second", 50)].status = TaskStatus.PENDING


def lose_a_record(world: World) -> None:
    world.notes.runs["unknown"] = [Run(LIVING, 0, 0)]


def forget_the_time(world: World) -> None:
    world.records[world.at("minute", 120)].run_at = None


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (fire_twice, "second: each firing time once"),
        (leave_out, "fast: contiguous"),
        (fire_early, "minute: not before its time"),
        (fire_between, "second: only at its times"),
        (stop_early, "minute: it fires to the end"),
        (never_fire, "second: it fires"),
        (skip_untold, "default: what is skipped is told"),
        (skip_while_others_fire, "default: skipped only where nothing could fire"),
        (skip_the_start, "default: it fires from the start"),
        (lose_a_run, "success means that it ran to its end"),
        (run_twice, "it ran 2 times, and not because its process was killed mid-run"),
        (rerun_the_default, "without requeue_on_interrupt it runs once"),
        (interrupt_a_living_process, "interrupted only where its process was killed"),
        (interrupt_what_is_requeued, "no run ends as interrupted"),
        (leave_pending, "everything ends, and this is pending"),
        (lose_a_record, "what ran is in the ledger"),
        (forget_the_time, "minute: each run has a firing time"),
    ],
)
def test_what_is_wrong_is_named(spoil: Callable[[World], None], rule: str) -> None:
    world = World()
    spoil(world)
    assert any(violation.startswith(rule) for violation in world.check().violations), world.check().violations


@pytest.mark.parametrize(("schedule", "first"), [("default", 1), ("minute", 60), ("fast", 0.2)])
@pytest.mark.parametrize("late", [0.3, 1.0, 1.5, 14.0, 17.0, 61.0, 100.4])
def test_what_was_missed_is_known_from_what_was_said(schedule: str, first: float, late: float) -> None:
    step, now = STEPS[schedule], NOON + timedelta(seconds=first + late)
    moments = {NOON + timedelta(seconds=first) + n * step for n in range(int(late / step.total_seconds()) + 1)}
    fired, number = due(make_rule(step, None, "UTC"), "skip", min(moments), now)
    assert Missed(schedule, number, now, LIVING, 0).moments() == moments - set(fired)


def test_notes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    assert read_notes(path) == Notes()
    lines = [
        {"word": "enter", "task": "a", "pid": KILLED, "at": 1.0},
        {"word": "enter", "task": "a", "pid": LIVING, "at": 2.0},
        {"word": "leave", "task": "a", "pid": LIVING, "at": 3.0},
        {"word": "said", "text": "the schedule 'default' missed 3 firings up to 2026-01-01T12:00:00+00:00",
         "pid": LIVING, "at": 4.0},
        {"word": "said", "text": "the schedule 'default' fires again", "pid": LIVING, "at": 5.0},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_notes(path) == Notes(
        {"a": [Run(KILLED, 1.0, None), Run(LIVING, 2.0, 3.0)]},
        [Missed("default", 3, NOON, LIVING, 4.0)],
        ["the schedule 'default' fires again"],
    )
