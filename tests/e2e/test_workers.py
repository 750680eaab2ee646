"""Several workers behind one port report as one: every answer has the totals of the ledger."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from taskflow_otel.backends import SqliteBackend
from taskflow_otel.reconcile.compare import Difference, reconcile
from tests.procs import AppProcess
from tests.waiting import wait_until

TASKS_PER_REQUEST = 100
REQUESTS = 100


@pytest.fixture
def app(tmp_path: Path) -> Iterator[AppProcess]:
    env = {"APP_DB": str(tmp_path / "tasks.db")}
    with AppProcess("tests.apps.workers_app:app", tmp_path, env=env, arguments=["--workers", "4"]) as process:
        yield process


class Scraper:
    """Scrapes over a new connection each time, so that any worker may answer, and looks for counters that fall."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: dict[tuple[str, ...], float] = {}
        self.fallen: list[str] = []
        self.scrapes = 0

    def scrape(self) -> str:
        text = httpx.get(f"{self.url}/tasks/metrics", timeout=30).raise_for_status().text
        self.scrapes += 1
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if family.type == "gauge" or sample.name.endswith("_created"):
                    continue
                key = (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items())))
                if sample.value < self.seen.get(key, 0.0):
                    self.fallen.append(f"{key}: {self.seen[key]} -> {sample.value}")
                self.seen[key] = sample.value
        return text

    def total(self, name: str) -> float:
        return sum(value for key, value in self.seen.items() if key[0] == name)


def instances(app: AppProcess) -> dict[int, str]:
    """The living workers by process id."""
    found = httpx.get(f"{app.url}/tasks/instances", timeout=30).raise_for_status().json()
    return {one["pid"]: one["instance_id"] for one in found if one["state"] == "alive"}


def run(app: AppProcess, requests: int) -> Counter[int]:
    """Have tasks run, over several connections at once; the number of requests that each worker took."""

    def post(_: int) -> int:
        answer = httpx.post(f"{app.url}/run/{TASKS_PER_REQUEST}", timeout=60)
        return int(answer.raise_for_status().json()["pid"])

    with ThreadPoolExecutor(8) as pool:
        return Counter(pool.map(post, range(requests)))


def stats(app: AppProcess) -> dict[str, int]:
    answer: dict[str, int] = httpx.get(f"{app.url}/tasks/stats", timeout=30).raise_for_status().json()
    return answer


def pending(app: AppProcess) -> int:
    counts = stats(app)
    return counts["pending"] + counts["running"]


def test_totals_are_those_of_the_ledger_though_a_worker_is_killed_and_replaced(app: AppProcess, tmp_path: Path) -> None:
    wait_until(lambda: len(instances(app)) == 4, "four workers")
    scraper = Scraper(app.url)
    workers = run(app, REQUESTS // 2)
    for _ in range(10):
        scraper.scrape()

    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(run, app, REQUESTS // 4)
        victim = workers.most_common(1)[0][0]
        os.kill(victim, signal.SIGKILL)
        while not second.done():
            scraper.scrape()
        # Requests that the victim was answering broke off.
        broken = second.exception()
    assert broken is None or isinstance(broken, httpx.HTTPError)
    wait_until(lambda: len(instances(app)) == 4 and victim not in instances(app), "the replacement")
    run(app, REQUESTS // 4)

    wait_until(lambda: pending(app) == 0, "the end of all tasks", timeout=60)
    total = stats(app)["total"]
    assert total >= TASKS_PER_REQUEST * (REQUESTS // 2 + REQUESTS // 4)

    def complete() -> bool:
        scraper.scrape()
        return scraper.total("taskflow_tasks_finished_total") >= total

    wait_until(complete, "the last counts")
    texts = [scraper.scrape() for _ in range(10)]
    assert scraper.fallen == []
    assert scraper.total("taskflow_tasks_enqueued_total") == total

    assert asyncio.run(compare(tmp_path / "tasks.db", texts)) == []


async def compare(path: Path, pages: Sequence[str]) -> list[Difference]:
    """What differs between the ledger and these metrics pages."""
    backend = SqliteBackend(path)
    await backend.open()
    try:
        return await reconcile(backend, metrics={f"scrape {number}": page for number, page in enumerate(pages)})
    finally:
        await backend.close()


def test_counts_outlive_every_worker(app: AppProcess) -> None:
    scraper = Scraper(app.url)
    wait_until(lambda: len(instances(app)) == 4, "four workers")
    run(app, 5)
    wait_until(lambda: pending(app) == 0, "the end of all tasks")
    scraper.scrape()
    for stop in (app.terminate, app.kill):
        stop()
        app.start()
        wait_until(lambda: len(instances(app)) == 4, "four workers")
        run(app, 5)
        wait_until(lambda: pending(app) == 0, "the end of all tasks")
        scraper.scrape()
    assert scraper.fallen == []

    def complete() -> bool:
        scraper.scrape()
        return scraper.total("taskflow_tasks_finished_total") == 3 * 5 * TASKS_PER_REQUEST

    wait_until(complete, "the last counts")
