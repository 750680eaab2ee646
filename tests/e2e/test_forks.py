"""What names a process is made when it starts: forked workers share nothing, on any backend."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.procs import ROOT, AppProcess
from tests.waiting import wait_until

BACKENDS = {"sqlite": None, "redis": "redis_url", "postgres": "postgres_url", "mysql": "mariadb_url"}
POSTS = 60
CHILDREN, TASKS = 4, 5
FINISHED = "taskflow_tasks_finished_total"


class Gunicorn(AppProcess):
    """Four workers, forked from a parent that has imported the app."""

    def command(self) -> Sequence[str]:
        worker = ("-k", "uvicorn_worker.UvicornWorker", "--preload", "-w", "4", "--log-level", "warning")
        return [sys.executable, "-m", "gunicorn", self.app, "-b", f"127.0.0.1:{self.port}", *worker]


@pytest.fixture(params=sorted(BACKENDS))
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """A backend, as the apps read it from the environment."""
    fixture = BACKENDS[request.param]
    url = str(tmp_path / "tasks.db") if fixture is None else request.getfixturevalue(fixture)
    return {"APP_BACKEND": request.param, "APP_URL": url}


def finished(page: str) -> float:
    """How many tasks a page says have finished."""
    samples = (sample for family in text_string_to_metric_families(page) for sample in family.samples)
    return sum(sample.value for sample in samples if sample.name == FINISHED)


def test_workers_that_were_forked_after_the_import_take_every_post_and_count_it_once(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with Gunicorn("tests.apps.forked_app:app", tmp_path, env=environment) as app:

        def instances() -> set[str]:
            found = httpx.get(f"{app.url}/tasks/instances", timeout=30).raise_for_status().json()
            return {one["instance_id"] for one in found if one["state"] == "alive"}

        wait_until(lambda: len(instances()) == 4, "four workers")
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: httpx.post(f"{app.url}/run", timeout=30), range(POSTS)))
        assert Counter(answer.status_code for answer in answers) == {200: POSTS}
        assert len({answer.json()["pid"] for answer in answers}) > 1

        def done() -> bool:
            return bool(httpx.get(f"{app.url}/tasks/stats", timeout=30).json()["success"] == POSTS)

        wait_until(done, "the end of all tasks")

        def pages() -> list[float]:
            return [finished(httpx.get(f"{app.url}/tasks/metrics", timeout=30).text) for _ in range(8)]

        wait_until(lambda: pages() == [POSTS] * 8, "the counts of all workers")
        assert len(instances()) == 4


def test_a_manager_works_in_children_that_were_forked_before_after_and_during_its_life(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.apps.forking", str(CHILDREN), str(TASKS)],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert finished(done.stdout) == TASKS * (3 * CHILDREN + 3)
