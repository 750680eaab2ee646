"""`python -m tests.chaos.schedules --backend sqlite --seconds 240`: schedules on three instances that are killed.

Every 9 to 16 seconds one instance is killed and started again, now and then another one is frozen for a moment, and
twice all are killed at once and stay away for some seconds. Then each firing time must have made one task, and each
task must have run once, unless the process that ran it was killed. Prints a report as JSON for each backend.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from taskflow_otel.backends import Backend
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.reconcile.compare import reconcile
from tests.chaos.plan import SERVERS
from tests.chaos.schedules_check import STEPS, Check, Findings, Notes, read_notes
from tests.chaos.storm import opened
from tests.procs import AppProcess
from tests.waiting import eventually

SCHEDULED = ("sqlite", *SERVERS)
_INSTANCES = 3
_HEADERS = {"Accept": "text/plain", "Authorization": "Bearer chaos"}
_METRIC = "taskflow_schedule_missed_total"
_EXCHANGE = 3.0
"""Seconds after which what an instance has counted is known to the others."""
_LAST_COUNTS = 20.0
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """A kill every `pace` seconds (from, to) for `seconds`, with this number of `blackouts` in between."""

    backend: str
    seconds: float
    seed: int = 0
    pace: tuple[float, float] = (9, 16)
    blackouts: int = 2
    away: tuple[float, float] = (4, 7)
    """Seconds (from, to) that a blackout lasts."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was done, and what came of it. Lateness is in milliseconds, `machine_load` the load average at the end."""

    backend: str
    seed: int
    seconds: float
    kills: int
    blackouts: int
    freezes: int
    fired: dict[str, int]
    gaps: dict[str, int]
    missed_told: dict[str, int]
    missed_metric: dict[str, int]
    late: dict[str, dict[str, float]]
    runs: int
    reruns: int
    interrupted: int
    takeovers: int
    said: dict[str, int]
    machine_load: float
    violations: list[str] = field(default_factory=list)


class Storm:
    """One storm over schedules on one backend at `url`."""

    def __init__(self, plan: Plan, directory: Path, url: str) -> None:
        self._plan = plan
        self._url = url
        self._draw = random.Random(plan.seed)
        self._notes = directory / "notes.jsonl"
        environment = {"CHAOS_BACKEND": plan.backend, "CHAOS_URL": url, "CHAOS_NOTES": str(self._notes)}
        self._members: list[AppProcess] = []
        for number in range(_INSTANCES):
            place = directory / f"member-{number}"
            place.mkdir()
            self._members.append(AppProcess("tests.chaos.schedules_app:app", place, env=environment))
        self._deaths: dict[int, float] = {}
        self._blackouts = self._freezes = 0

    async def run(self) -> Report:
        """Let the storm pass, stop firing, let everything end, and check."""
        try:
            await asyncio.gather(*(self._start(member) for member in self._members))
            began = datetime.now(UTC)
            await self._storm()
            ended = datetime.now(UTC)
            async with opened(self._plan.backend, self._url) as backend:
                await self._quiesce(backend)
                records = await stored(backend)
                metric, differences = await self._metric(backend)
            await asyncio.gather(*(asyncio.to_thread(member.terminate) for member in self._members))
        finally:
            for member in self._members:
                member.kill()
        notes = read_notes(self._notes)
        findings = Check(records, notes, self._deaths, began, ended).run()
        findings.violations += [*self._uncounted(notes, metric), *differences]
        return self._report((ended - began).total_seconds(), records, notes, metric, findings)

    async def _start(self, member: AppProcess) -> None:
        await asyncio.to_thread(member.start)

    def _kill(self, member: AppProcess) -> None:
        # A moment too late rather than too early: a run that began before its process ended was killed mid-run.
        pid = member.pid
        member.kill()
        self._deaths[pid] = time.time()

    async def _storm(self) -> None:
        """One blow after the other, and the blackouts evenly in between; at the end all are up again."""
        over = time.monotonic() + self._plan.seconds
        parts = self._plan.blackouts + 1
        dark = [over - self._plan.seconds * part / parts for part in range(1, parts)]
        while (left := over - time.monotonic()) > 0:
            await asyncio.sleep(min(left, self._draw.uniform(*self._plan.pace)))
            if dark and time.monotonic() >= dark[-1]:
                dark.pop()
                await self._blackout()
            elif time.monotonic() < over:
                await self._blow()
        for _ in dark:
            await self._blackout()

    async def _blow(self) -> None:
        """Kill one instance; every third time another one is frozen at the same time."""
        victim, other = self._draw.sample(self._members, 2)
        if self._draw.random() < 0.6:
            # While a firing is under way.
            await asyncio.sleep(1 - time.time() % 1 + self._draw.uniform(-0.005, 0.03))
        frozen = self._freeze(other) if self._draw.random() < 0.33 else asyncio.sleep(0)
        self._kill(victim)
        await asyncio.gather(frozen, self._later(victim, self._draw.uniform(0, 2)))

    async def _freeze(self, member: AppProcess) -> None:
        self._freezes += 1
        os.kill(member.pid, signal.SIGSTOP)
        await asyncio.sleep(self._draw.uniform(1, 3))
        os.kill(member.pid, signal.SIGCONT)

    async def _later(self, member: AppProcess, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._start(member)

    async def _blackout(self) -> None:
        self._blackouts += 1
        for member in self._members:
            self._kill(member)
        await asyncio.sleep(self._draw.uniform(*self._plan.away))
        await asyncio.gather(*(self._start(member) for member in self._members))

    async def _quiesce(self, backend: Backend) -> None:
        """Pause every schedule, through one instance, and wait until every task has ended."""
        async with httpx.AsyncClient(base_url=self._members[0].url, timeout=20) as client:
            for name in STEPS:
                (await client.post(f"/tasks/schedules/{name}/pause")).raise_for_status()
        # The other instances learn of it within their next round.
        await asyncio.sleep(_EXCHANGE)

        async def all_ended() -> bool:
            left = (await backend.counts(TaskQuery())).by_status
            return not left.get(TaskStatus.PENDING) and not left.get(TaskStatus.RUNNING)

        # What then has not ended is found by the check.
        with contextlib.suppress(TimeoutError):
            await eventually(all_ended, "the end of every task", timeout=60, interval=0.2)

    async def _metric(self, backend: Backend) -> tuple[dict[str, int], list[str]]:
        """The firings that were missed, over the pages of all instances, and how these differ from the ledger.

        Each instance is a target of its own; one of them shows the counts of those that are gone.
        """
        deadline = time.monotonic() + _LAST_COUNTS
        async with httpx.AsyncClient(headers=_HEADERS, timeout=20) as client:
            while True:
                pages = {
                    member.url: (await client.get(f"{member.url}/tasks/metrics")).raise_for_status().text
                    for member in self._members
                }
                differences = [str(one) for one in await reconcile(backend, metrics=pages, together=True)]
                if not differences or time.monotonic() > deadline:
                    break
                await asyncio.sleep(1.0)
        missed = dict.fromkeys(STEPS, 0)
        for page in pages.values():
            for family in text_string_to_metric_families(page):
                for sample in family.samples:
                    if sample.name == _METRIC and sample.labels["schedule"] in missed:
                        missed[sample.labels["schedule"]] += int(sample.value)
        return missed, differences

    def _uncounted(self, notes: Notes, metric: dict[str, int]) -> list[str]:
        """Where the metric is not what was told. What was told at the end of a process's life may not be counted."""
        wrong = []
        for name in STEPS:
            told = [missed for missed in notes.missed if missed.schedule == name]
            most = sum(missed.number for missed in told)
            least = sum(m.number for m in told if self._deaths.get(m.pid, float("inf")) - m.at > _EXCHANGE)
            if not least <= metric[name] <= most:
                wrong.append(f"{name}: {_METRIC} is {metric[name]}, and {least} to {most} were told")
        return wrong

    def _report(
        self, seconds: float, records: list[TaskRecord], notes: Notes, metric: dict[str, int], findings: Findings
    ) -> Report:
        told: Counter[str] = Counter()
        for missed in notes.missed:
            told[missed.schedule] += missed.number
        return Report(
            backend=self._plan.backend,
            seed=self._plan.seed,
            seconds=round(seconds, 1),
            kills=len(self._deaths),
            blackouts=self._blackouts,
            freezes=self._freezes,
            fired=findings.fired,
            gaps=findings.gaps,
            missed_told=dict(told),
            missed_metric=metric,
            late=findings.late,
            runs=findings.runs,
            reruns=findings.reruns,
            interrupted=findings.interrupted,
            takeovers=sum(record.token - 1 for record in records),
            said=dict(Counter(notes.said).most_common(_SHOWN)),
            machine_load=round(os.getloadavg()[0], 1),
            violations=findings.violations,
        )


async def stored(backend: Backend) -> list[TaskRecord]:
    """Every task that a schedule has made."""
    records: list[TaskRecord] = []
    cursor: str | None = None
    while True:
        page = await backend.page(TaskQuery(source="scheduled", limit=500, cursor=cursor))
        records += page.records
        if (cursor := page.next_cursor) is None:
            return records


def run_storm(plan: Plan, directory: Path | None = None) -> Report:
    """Start the database, let the storm pass over it, and report. Files are kept in `directory`, if given."""
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taskflow-schedules-")))
        server = stack.enter_context(SERVERS[plan.backend](None)) if plan.backend in SERVERS else None
        url = str(directory / "tasks.db") if server is None else server.fresh_url()
        return asyncio.run(Storm(plan, directory, url).run())


def main() -> int:
    """Run the storms; the exit status is 1 when a promise was not kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.schedules", description=__doc__)
    parser.add_argument("--backend", action="append", choices=SCHEDULED, help="default: every one, in turn")
    parser.add_argument("--seconds", type=float, default=240, help="length of each storm (default: 240)")
    parser.add_argument("--seed", type=int, default=0, help="of what is done when (default: 0)")
    parser.add_argument("--keep", type=Path, help="directory to leave databases, logs and notes in")
    options = parser.parse_args()
    failed = False
    for backend in options.backend or SCHEDULED:
        directory = None
        if options.keep is not None:
            directory = options.keep / backend
            directory.mkdir(parents=True)
        report = run_storm(Plan(backend, options.seconds, options.seed), directory)
        shown: dict[str, Any] = {**asdict(report), "violations": report.violations[:_SHOWN]}
        sys.stdout.write(json.dumps({**shown, "violations_in_all": len(report.violations)}, indent=2) + "\n")
        sys.stdout.flush()
        failed = failed or bool(report.violations)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
