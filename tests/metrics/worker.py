"""One instance as far as its metrics go, with a clock and a backend that the test controls."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from taskflow_otel.backends.memory import MemoryBackend
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.exporters.signals import ELSEWHERE
from taskflow_otel.metrics.fleet import FleetMetrics
from taskflow_otel.model.query import Instance
from taskflow_otel.model.record import TaskRecord, TimelineEntry
from taskflow_otel.model.replay import replay
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.vocabulary import InstanceKind
from taskflow_otel.testing.clock import FakeClock

ENQUEUED = "taskflow_tasks_enqueued_total"
FINISHED = "taskflow_tasks_finished_total"


class Unsteady(MemoryBackend):
    """A backend that can be away."""

    away = False

    async def swap_settings(self, expected: Mapping[str, str | None], changes: Mapping[str, str | None]) -> bool:
        if self.away:
            raise BackendUnavailableError("away")
        return await super().swap_settings(expected, changes)


class Worker:
    """One process behind the target `address`; an empty one is a program that serves nothing."""

    host = "host"
    metrics_type = FleetMetrics

    def __init__(
        self,
        name: str,
        backend: MemoryBackend,
        clock: FakeClock,
        address: str = "host:8000",
        kind: InstanceKind = InstanceKind.WEB,
    ) -> None:
        self.name = name
        self.clock = clock
        self.backend = backend
        self.address = address
        self.pending: dict[str, int] = {}
        self.numbers = itertools.count()
        self.exporter = PrometheusExporter(kind=kind, clock=clock)
        self.metrics = self.metrics_type(
            self.exporter,
            backend,
            clock,
            instance_id=lambda: self.name,
            unpublished=lambda: self.pending,
            address=lambda: self.address,
        )

    async def start(self) -> Worker:
        await self.beat("alive")
        await self.metrics.introduce()
        await self.metrics.start()
        return self

    async def beat(self, state: str) -> None:
        now = self.clock.now()
        await self.backend.beat(Instance(self.name, self.host, os.getpid(), "", now, now, 15.0, state))

    async def die(self) -> None:
        """Be declared dead, as after SIGKILL."""
        await self.metrics.stop()
        await declare_dead(self.backend, self.name)

    async def leave(self) -> None:
        """Stop in order."""
        await self.metrics.stop()
        await self.metrics.finish()
        await self.beat("stopped")

    def run(self, times: int = 1, name: str = "send") -> list[TaskRecord]:
        """Have tasks enqueued, started and finished, and counted."""
        records = [make_record(self, f"{self.name}-{next(self.numbers)}", name) for _ in range(times)]
        for record in records:
            self.count(record)
        return records

    def count(self, record: TaskRecord) -> None:
        for event in replay(record):
            self.exporter.on_lifecycle(event)

    async def samples(self) -> list[Sample]:
        """What a scrape shows."""
        scrape = asyncio.create_task(self.metrics.refresh())
        # Between two exchanges there is a pause.
        while not scrape.done():
            await self.clock.advance(0.1)
        await scrape
        text = self.metrics.render("text/plain")[0].decode()
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    async def scrape(self) -> dict[str, float]:
        """The sums over all labels, by the name of the sample, as a scrape shows them."""
        sums: dict[str, float] = {}
        for sample in await self.samples():
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return sums

    async def finished(self) -> tuple[float, dict[str, float]]:
        """How many finished tasks it shows as those of its target, and by the values of `elsewhere`."""
        own, others = 0.0, dict[str, float]()
        for sample in await self.samples():
            if sample.name == FINISHED and ELSEWHERE in sample.labels:
                label = sample.labels[ELSEWHERE]
                others[label] = others.get(label, 0.0) + sample.value
            elif sample.name == FINISHED:
                own += sample.value
        return own, others


async def declare_dead(backend: MemoryBackend, name: str) -> None:
    [instance] = [one for one in await backend.instances() if one.instance_id == name]
    assert await backend.declare_dead(name, instance.heartbeat_at)


def make_record(worker: Worker, task_id: str, name: str = "send") -> TaskRecord:
    now = worker.clock.now()
    record = TaskRecord(task_id, name, TaskStatus.SUCCESS, now, instance=worker.name)
    record.start_time = record.end_time = now
    record.duration = 0.0
    for transition in (Transition.ENQUEUED, Transition.STARTED, Transition.SUCCEEDED):
        record.timeline += (TimelineEntry(transition, now, 0, worker.name),)
    return record
