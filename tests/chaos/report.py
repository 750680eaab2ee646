"""What a storm was and what it left, for people and for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import Transition
from tests.chaos.books import Answers, Executions
from tests.chaos.check import Findings, Violation
from tests.chaos.witnesses import Witnesses

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one storm."""

    backend: str
    arrangement: str
    seed: int
    seconds: float
    kills: int
    kills_by_moment: dict[str, int]
    kills_by_kind: dict[str, int]
    """By kind of process."""
    other_faults: dict[str, int]
    acknowledged: int
    refused: int
    unanswered: int
    stored: int
    statuses: dict[str, int]
    executions: int
    retries: int
    reruns: int
    takeovers: int
    in_doubt: list[str]
    vanished_duplicates: int
    losses: int
    violations: list[Violation]
    differences: list[str]
    """Between the ledger and the metrics, spans and log records of the whole fleet, about persisted tasks."""
    spans: int
    log_records: int
    doorbells: dict[str, int]
    """The messages to Celery, by result."""

    @classmethod
    def make(
        cls,
        backend: str,
        arrangement: str,
        seed: int,
        seconds: float,
        kills: Counter[str],
        kills_by_kind: Counter[str],
        others: Counter[str],
        answers: Answers,
        executions: Executions,
        records: Mapping[str, TaskRecord],
        counted: int,
        findings: Findings,
        witnesses: Witnesses | None,
    ) -> Self:
        """Sum up. `counted`: how many tasks the backend itself counts."""
        violations = findings.violations
        if counted != len(records):
            violations.append(Violation("the counts are true", f"{counted} counted, {len(records)} stored"))
        transitions = Counter(
            (entry.transition, entry.reason) for record in records.values() for entry in record.timeline
        )
        entered = Counter(note.task_id for note in executions.entered())
        retries = sum(record.retries_used for record in records.values())
        return cls(
            backend=backend,
            arrangement=arrangement,
            seed=seed,
            seconds=round(seconds, 1),
            kills=kills.total(),
            kills_by_moment=dict(sorted(kills.items())),
            kills_by_kind=dict(sorted(kills_by_kind.items())),
            other_faults={name: number for name, number in sorted(others.items()) if number},
            acknowledged=len(answers.acknowledged),
            refused=len(answers.refused),
            unanswered=answers.unanswered,
            stored=len(records),
            statuses=dict(sorted(Counter(str(record.status) for record in records.values()).items())),
            executions=entered.total(),
            retries=retries,
            reruns=sum(
                max(0, number - 1 - records[task_id].retries_used)
                for task_id, number in entered.items()
                if task_id in records
            ),
            takeovers=sum(n for (kind, reason), n in transitions.items()
                          if kind is Transition.RECOVERED and reason != "shutdown"),
            in_doubt=findings.in_doubt,
            vanished_duplicates=findings.vanished_duplicates,
            losses=findings.lost,
            violations=violations,
            differences=[] if witnesses is None else witnesses.differences,
            spans=0 if witnesses is None else witnesses.spans,
            log_records=0 if witnesses is None else witnesses.log_records,
            doorbells={} if witnesses is None else witnesses.doorbells,
        )  # fmt: skip

    def as_json(self) -> str:
        """The report as one JSON object."""
        return json.dumps(asdict(self), indent=2)

    def __str__(self) -> str:
        moments = "".join(f"\n      {number:4} {name}" for name, number in self.kills_by_moment.items())
        others = ", ".join(f"{number} × {name}" for name, number in self.other_faults.items())
        statuses = ", ".join(f"{number} {name}" for name, number in self.statuses.items())
        kinds = ", ".join(f"{number} of {kind}" for kind, number in self.kills_by_kind.items())
        lines = [
            f"{self.backend}, {self.arrangement}: {self.kills} kills in {self.seconds:g} s (seed {self.seed}){moments}",
            f"  processes killed: {kinds}",
            f"  also: {others}",
            f"  requests: {self.acknowledged} acknowledged, {self.refused} refused (503), {self.unanswered} unanswered",
            f"  ledger: {self.stored} tasks: {statuses}",
            (
                f"  runs: {self.executions} executions, {self.retries} retries, {self.reruns} reruns, "
                f"{self.takeovers} takeovers of tasks"
            ),
            (
                f"  in doubt: {len(self.in_doubt)} refused whose process died at once; "
                f"{self.vanished_duplicates} duplicates without a record of their own"
            ),
            f"  LOSSES: {self.losses}   VIOLATIONS: {len(self.violations)}",
        ]
        if self.doorbells:
            said = ", ".join(f"{number} {result}" for result, number in sorted(self.doorbells.items()))
            lines.insert(-1, f"  messages to Celery: {said}")
        for violation in self.violations[:_SHOWN]:
            lines.append(f"    {violation.rule}: {violation.detail} [{violation.task_id}]")
            lines += [f"        {line}" for line in (*violation.timeline, *violation.notes)]
        lines.append(
            f"  TELEMETRY AGAINST THE LEDGER: {len(self.differences)} differences (persisted tasks; the metrics, "
            f"{self.spans} spans, {self.log_records} log records)"
        )
        lines += [f"    {difference}" for difference in self.differences[:_SHOWN]]
        return "\n".join(lines)
