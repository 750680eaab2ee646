"""The Prometheus and the collector of a storm, and what they say at its end against the ledger."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from taskflow_otel.backends import Backend
from taskflow_otel.exporters import keys, signals
from taskflow_otel.reconcile.compare import reconcile
from taskflow_otel.reconcile.otlp_file import ExportedLog, ExportedSpan, read_exports
from taskflow_otel.reconcile.totals import prometheus_totals
from tests.chaos.exports import REJECTED, Collector, Untrue
from tests.chaos.fleet import Member
from tests.chaos.kinds import KINDS
from tests.records import every_record
from tests.servers import PrometheusServer

_SETTLE = 20.0
"""Seconds in which the witnesses must agree with the ledger."""
_UNKEPT = frozenset(kind.name for kind in KINDS.values() if kind.fails or not kind.persisted)
"""Of tasks that are not persisted, and of those whose request failed before they were stored, the ledger has the
history only as far as it was written."""
_PROMETHEUS = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: fleet
    metrics_path: /tasks/metrics
    authorization: {{credentials: chaos}}
    static_configs: [{{targets: [{targets}]}}]
"""


class Witnesses:
    """What watches a storm from outside. `directory`: for the file of the collector."""

    def __init__(self, directory: Path) -> None:
        self._collector = Collector()
        self._file = directory / "exports.jsonl"
        self._prometheus: PrometheusServer | None = None
        self.differences: list[str] = []
        """Where they contradict the ledger; after `compare`."""
        self.doorbells: dict[str, int] = {}
        """By result, as the page of metrics says at the end."""
        self.spans = 0
        self.log_records = 0

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which the members export."""
        return self._collector.environment

    async def start(self, members: Sequence[Member]) -> None:
        """Begin to scrape the members, and to take what they export."""
        self._collector.start()
        targets = ", ".join(f'"127.0.0.1:{member.port}"' for member in members)
        self._prometheus = PrometheusServer(_PROMETHEUS.format(targets=targets))
        await asyncio.to_thread(self._prometheus.start)

    def close(self) -> None:
        """Stop."""
        self._collector.close()
        if self._prometheus is not None:
            self._prometheus.close()

    async def compare(self, backend: Backend, survivors: Sequence[Member]) -> None:
        """Compare what they say with the ledger, in which nothing changes any more. The first survivor has a page."""
        runners = [pid for survivor in survivors for pid in survivor.runners]
        self.differences = [*await self._counts(backend, survivors[0]), *await self._exports(backend, runners)]

    async def _counts(self, backend: Backend, survivor: Member) -> list[str]:
        """Where the metrics of the fleet, all the dead included, differ from the ledger, once they have settled.

        It is what one page says, and what a Prometheus says that has scraped all members through the whole storm. Of
        the types that are not kept, the ledger says less.
        """
        history = tuple(f"{{{name}{end}" for name in _UNKEPT for end in (", ", "}"))
        deadline = time.monotonic() + _SETTLE
        headers = {"Accept": "text/plain", "Authorization": "Bearer chaos"}
        prometheus = "" if self._prometheus is None else self._prometheus.url
        async with httpx.AsyncClient(headers=headers, timeout=30) as client:
            while True:
                page = (await client.get(f"{survivor.url}/tasks/metrics")).raise_for_status().text
                scraped = await asyncio.to_thread(prometheus_totals, _fetch, prometheus, 'job="fleet"')
                given = await reconcile(backend, metrics={"fleet": page}, totals={"prometheus": scraped})
                self.doorbells = _doorbells(page)
                found = [str(one) for one in given]
                differences = [one for one in found if not any(name in one for name in history)]
                if not differences or time.monotonic() > deadline:
                    return differences
                await asyncio.sleep(1.0)

    async def _exports(self, backend: Backend, survivors: Sequence[int]) -> list[str]:
        """Where the spans and log records that the collector has written contradict the ledger.

        What a process had not exported when it was killed is lost; of what the survivors did, nothing is.
        """
        deadline = time.monotonic() + _SETTLE
        while True:
            exported = read_exports([await asyncio.to_thread(self._collector.file, self._file)])
            self.spans = sum(map(len, exported.spans.values()))
            self.log_records = sum(map(len, exported.logs.values()))
            doubted = {
                task_id for task_id, logs in exported.logs.items() if REJECTED in {one.event_name for one in logs}
            }
            told: list[ExportedSpan | ExportedLog] = [some[0] for some in exported.spans.values()]
            told += [some[0] for some in exported.logs.values()]
            kinds = {
                str(one.attributes.get(keys.MESSAGING_MESSAGE_ID)): str(one.attributes[keys.MESSAGING_DESTINATION_NAME])
                for one in told
            }
            untrue = Untrue(
                await every_record(backend),
                kinds,
                lambda instance: any(f"-{pid}-" in instance for pid in survivors),
                doubted,
                _UNKEPT,
            )
            differences = untrue.of(await reconcile(backend, exported=exported))
            if not differences or time.monotonic() > deadline:
                return differences
            await asyncio.sleep(1.0)


def _doorbells(page: str) -> dict[str, int]:
    found = re.findall(rf'^{signals.DOORBELLS.name}{{.*result="(\w+)".*}} ([0-9.e+]+)$', page, re.MULTILINE)
    return {result: int(float(value)) for result, value in found}


def _fetch(url: str) -> str:
    return httpx.get(url, timeout=30).text
