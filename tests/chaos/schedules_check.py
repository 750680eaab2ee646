"""Compares what schedules have fired with the firing times that there were, and with what the runs themselves noted."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus

STEPS = {
    name: timedelta(seconds=every) for name, every in (("fast", 0.2), ("second", 1), ("minute", 60), ("default", 1))
}
DEFAULT = "default"
"""The schedule of the default policy, `catch_up="skip"`, whose interrupted runs do not run again."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SLACK = timedelta(seconds=3)
"""How long after the first instance answers, and before the end, a schedule may be silent beyond its interval."""
_COMMIT = 5.0
"""Seconds within which the end of a run is committed: one that had ended runs again if its process dies before."""
_STALL = timedelta(seconds=0.8)
_MISSED = re.compile(r"the schedule '(\w+)' missed (\d+) firings up to (\S+)")


@dataclass(frozen=True, slots=True)
class Run:
    """A run noted that it began, in a process."""

    pid: int
    at: float
    left_at: float | None


@dataclass(frozen=True, slots=True)
class Missed:
    """An instance said how many firings it leaves out, at this moment of its clock."""

    schedule: str
    number: int
    until: datetime
    pid: int
    at: float

    def moments(self) -> set[datetime]:
        """The firing times that it leaves out, by the rule of `docs/schedules.md`: those that are in time fire."""
        step = STEPS[self.schedule]
        in_time = self.until - min(timedelta(minutes=1), max(timedelta(seconds=1), step / 4))
        first_fired = EPOCH - (EPOCH - in_time) // step * step
        following = EPOCH + ((self.until - EPOCH) // step + 1) * step
        return {min(first_fired, following) - n * step for n in range(1, self.number + 1)}


@dataclass(slots=True)
class Notes:
    """What the processes wrote."""

    runs: dict[str, list[Run]] = field(default_factory=lambda: defaultdict(list))
    missed: list[Missed] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """Everything else that the schedulers said."""


def read_notes(path: Path) -> Notes:
    """Read the notes of all processes."""
    notes = Notes()
    for line in path.read_text().splitlines() if path.exists() else ():
        entry: dict[str, Any] = json.loads(line)
        word, pid, at = entry["word"], entry["pid"], entry["at"]
        if word == "enter":
            notes.runs[entry["task"]].append(Run(pid, at, None))
        elif word == "leave":
            runs = notes.runs[entry["task"]]
            place = max(n for n, run in enumerate(runs) if run.pid == pid)
            runs[place] = Run(pid, runs[place].at, at)
        elif found := _MISSED.search(entry["text"]):
            notes.missed.append(Missed(found[1], int(found[2]), datetime.fromisoformat(found[3]), pid, at))
        else:
            notes.said.append(entry["text"])
    return notes


@dataclass(slots=True)
class Findings:
    """What the check found."""

    violations: list[str] = field(default_factory=list)
    fired: dict[str, int] = field(default_factory=dict)
    gaps: dict[str, int] = field(default_factory=dict)
    """Firing times between the first and the last at which a schedule made no task."""
    late: dict[str, dict[str, float]] = field(default_factory=dict)
    """Milliseconds from the firing time to the task."""
    runs: int = 0
    reruns: int = 0
    interrupted: int = 0


class Check:
    """One comparison. `deaths`: when each process was killed; `began`, `ended`: while schedules had to fire."""

    def __init__(
        self,
        records: Iterable[TaskRecord],
        notes: Notes,
        deaths: Mapping[int, float],
        began: datetime,
        ended: datetime,
    ) -> None:
        self._records = list(records)
        self._notes = notes
        self._deaths = deaths
        self._began = began
        self._ended = ended
        self._stalls: list[tuple[datetime, datetime]] = []
        self._findings = Findings()

    def run(self) -> Findings:
        """Check everything once."""
        by_name: dict[str, list[TaskRecord]] = {name: [] for name in STEPS}
        for record in self._records:
            by_name[record.func_name].append(record)
        self._stalls = [
            (moment, record.created_at)
            for record in by_name["fast"]
            if (moment := record.run_at) is not None and record.created_at - moment > _STALL
        ]
        for name, records in by_name.items():
            self._schedule(name, records)
        known = {record.task_id for record in self._records}
        self._add("what ran is in the ledger", sorted(self._notes.runs.keys() - known))
        for record in self._records:
            for what in self._runs(record):
                self._add(what, [f"{record.task_id} ({record.func_name} of {record.run_at})"])
        return self._findings

    def _add(self, rule: str, cases: Iterable[object]) -> None:
        self._findings.violations += [f"{rule}: {case}" for case in cases]

    def _schedule(self, name: str, records: list[TaskRecord]) -> None:
        step = STEPS[name]
        times = Counter(record.run_at for record in records if record.run_at is not None)
        found, moments = self._findings, sorted(times)
        found.fired[name] = len(records)
        self._add(f"{name}: each run has a firing time", [r.task_id for r in records if r.run_at is None])
        self._add(f"{name}: each firing time once", [f"{m}: {n} tasks" for m, n in times.items() if n > 1])
        self._add(f"{name}: only at its times", [m for m in moments if (m - EPOCH) % step])
        early = [r for r in records if r.run_at is not None and r.created_at < r.run_at]
        self._add(f"{name}: not before its time", [f"{r.task_id}: {r.created_at} for {r.run_at}" for r in early])
        if not moments:
            if self._ended - self._began > step + SLACK:
                self._add(f"{name}: it fires", ["never"])
            return
        if moments[0] > self._began + step + SLACK:
            self._add(f"{name}: it fires from the start", [moments[0]])
        if moments[-1] < self._ended - step - SLACK:
            self._add(f"{name}: it fires to the end", [moments[-1]])
        gaps = [
            before + n * step
            for before, behind in itertools.pairwise(moments)
            for n in range(1, (behind - before) // step)
        ]
        found.gaps[name] = len(gaps)
        if name == DEFAULT:
            told = set().union(*(missed.moments() for missed in self._notes.missed if missed.schedule == name))
            self._add(f"{name}: what is skipped is told", sorted(set(gaps) - told))
            self._add(f"{name}: skipped only where nothing could fire", [m for m in gaps if not self._down(m)])
        else:
            self._add(f"{name}: contiguous", gaps)
        late = sorted((r.created_at - r.run_at).total_seconds() for r in records if r.run_at is not None)
        found.late[name] = {label: round(1_000 * late[int(share * (len(late) - 1))], 1) for label, share in _SHARES}

    def _down(self, moment: datetime) -> bool:
        """Whether a schedule that leaves nothing out was late for a firing time near this one, too."""
        return any(begin - timedelta(seconds=1) <= moment <= end for begin, end in self._stalls)

    def _runs(self, record: TaskRecord) -> Iterator[str]:
        runs = sorted(self._notes.runs.get(record.task_id, ()), key=lambda run: run.at)
        found = self._findings
        found.runs += len(runs)
        found.reruns += max(0, len(runs) - 1)
        found.interrupted += record.status is TaskStatus.INTERRUPTED
        if not record.status.finished:
            yield f"everything ends, and this is {record.status}"
        elif record.status is TaskStatus.SUCCESS:
            if not runs or runs[-1].left_at is None:
                yield "success means that it ran to its end"
        elif record.status is not TaskStatus.INTERRUPTED or record.func_name != DEFAULT:
            yield f"no run ends as {record.status} ({record.reason})"
        elif runs and not self._died_in(runs[-1]):
            yield "interrupted only where its process was killed"
        if record.func_name == DEFAULT and len(runs) > 1:
            yield "without requeue_on_interrupt it runs once"
        if not all(self._died_in(run) for run in runs[:-1]):
            yield f"it ran {len(runs)} times, and not because its process was killed mid-run"

    def _died_in(self, run: Run) -> bool:
        death = self._deaths.get(run.pid)
        return death is not None and run.at <= death and (run.left_at is None or death - run.left_at < _COMMIT)


_SHARES = (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
