"""What one process stores of its counts, for the others that answer for it, and how large counts become JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from taskflow_otel.engine.live import REFUSED
from taskflow_otel.exporters.prometheus.task_counts import OTHER
from taskflow_otel.exporters.prometheus.values import Snapshot, capped, from_json, merge, to_json
from taskflow_otel.metrics.targets import FIRST
from taskflow_otel.model.events import LifecycleEvent
from taskflow_otel.model.status import Transition

T = TypeVar("T")

ID_LENGTH = 40
"""The approximate number of JSON characters of a task's id."""
_LARGE = 20_000
"""Characters of JSON above which a thread encodes and decodes it: more than a millisecond of work."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The stored data of one process: its counts at one moment, and the transitions that they do not include yet."""

    instance: str
    formerly: tuple[str, ...]
    """The former ids of this process; under each it was declared dead."""
    number: int
    taken_at: datetime
    unpublished: Mapping[str, int]
    """By task: how many timeline lines are counted, or `REFUSED`. For other tasks, all lines up to `taken_at`."""
    final: bool
    """The instance has stopped properly: these counts are complete."""
    counts: Snapshot
    target: str
    """The name of the target behind which it answers; empty if it is behind none."""
    asked_at: datetime
    """When its page was asked for the last time; at first, when it began to count."""
    in_sum: Mapping[str, int]
    """By task: how many timeline lines a sum of the dead includes, because this process was declared dead before."""

    def missed(self, event: LifecycleEvent, line: int) -> bool:
        """Whether a timeline line of a task belongs to this process and is not in these counts."""
        if event.instance != self.instance and event.instance not in self.formerly:
            return False
        if line < self.in_sum.get(event.task_id, 0):
            return False
        published = self.unpublished.get(event.task_id)
        if published is None:
            return event.timestamp > self.taken_at
        return event.transition is not Transition.REJECTED if published == REFUSED else line >= published

    def dump(self, counts: str) -> str:
        """As JSON; `counts` is the JSON of the counts, which can be large."""
        about = {
            "instance": self.instance,
            "formerly": self.formerly,
            "number": self.number,
            "taken_at": self.taken_at.isoformat(),
            "unpublished": dict(self.unpublished),
            "final": self.final,
            "target": self.target,
            "asked_at": self.asked_at.isoformat(),
            "in_sum": dict(self.in_sum),
        }
        return f'{json.dumps(about)[:-1]}, "counts": {counts}}}'

    @classmethod
    def load(cls, text: str) -> Stored:
        """Read the output of `dump`; raises `ValueError` for anything else.

        A process of version 0.1.0 stores no target: all processes were one, which was always asked.
        """
        try:
            data = json.loads(text)
            return cls(
                data["instance"],
                tuple(data["formerly"]),
                data["number"],
                datetime.fromisoformat(data["taken_at"]),
                data["unpublished"],
                data["final"],
                from_json(data["counts"]),
                data.get("target", FIRST),
                datetime.fromisoformat(data.get("asked_at", data["taken_at"])),
                data.get("in_sum", {}),
            )
        except (KeyError, TypeError, AttributeError) as exc:
            raise ValueError(f"not the metrics of an instance: {exc}") from exc


async def beside(size: int, work: Callable[[], T]) -> T:
    """Do large work on a thread, so that it does not block the event loop."""
    return work() if size < _LARGE else await asyncio.to_thread(work)


def size_of(counts: Snapshot) -> int:
    """The approximate number of JSON characters of the counts."""
    return 60 * sum(len(children) for children in counts.values())


def sum_up(parts: Sequence[Snapshot], cap: int) -> str:
    """The sum of counts as JSON, with at most `cap` values of each label."""
    return dump_counts(capped(merge(parts), cap, OTHER))


def dump_counts(counts: Snapshot) -> str:
    """Counts as JSON."""
    return json.dumps(to_json(counts), separators=(",", ":"))


def load_counts(text: str | None) -> Snapshot:
    """Read the output of `dump_counts`; raises `ValueError` for anything else."""
    return {} if text is None else from_json(json.loads(text))


def load_added(mark: str) -> tuple[int, Snapshot, dict[str, int]]:
    """Which version is in a sum, what the ledger added to it, and how many lines of which tasks that includes."""
    data = json.loads(mark)
    return data["number"], from_json(data["added"]), data.get("lines", {})


def load_moment(mark: str) -> datetime:
    """When a mark was made."""
    return datetime.fromisoformat(json.loads(mark)["at"]).astimezone(UTC)
