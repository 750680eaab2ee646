"""Celery as the engine, with real workers and brokers, of which each is killed: nothing is lost, nothing ends twice."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery import Celery

from taskflow_otel.reconcile.compare import Difference, reconcile
from tests.chaos.backends import make_backend
from tests.otlp import OtlpReceiver
from tests.procs import ROOT, AppProcess
from tests.servers import RabbitServer, RedisServer, spawn
from tests.waiting import wait_until

APP = "tests.apps.celery_app"
QUEUES = ("here", "pool", "celery")


@dataclass
class Shop:
    """The web process, and what it shares with the workers."""

    web: AppProcess
    directory: Path
    env: dict[str, str]

    def run(self, name: str, number: int = 1, **parameters: Any) -> list[str]:
        """Enqueue tasks; return their ids."""
        answer = httpx.post(f"{self.web.url}/run/{name}", params={"number": number, **parameters}, timeout=60)
        found: list[str] = answer.raise_for_status().json()
        return found

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.web.url}/tasks{path}", timeout=30).raise_for_status().json()

    def pending(self) -> int:
        """Tasks that have not ended."""
        stats = self.get("/stats")
        return int(stats["pending"] + stats["running"])

    def finish(self, what: str) -> None:
        wait_until(lambda: self.pending() == 0, what, timeout=90)

    def notes(self, word: str) -> dict[str, int]:
        """The latest process in which each task ran a function."""
        path = Path(self.env["APP_NOTES"])
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return {task_id: int(pid) for task_id, said, pid in lines if said == word}

    def children(self) -> dict[int, str]:
        """The processes of Celery that live, by id."""
        found = self.get("/instances")
        return {one["pid"]: one["instance_id"] for one in found if (one["state"], one["kind"]) == ("alive", "celery")}

    def worker(self, number: int = 1, concurrency: int = 2, options: Sequence[str] = ()) -> Worker:
        return Worker(self, self.directory / f"worker{number}.log", concurrency, options)

    def metrics(self) -> str:
        return httpx.get(f"{self.web.url}/tasks/metrics", timeout=30).raise_for_status().text


class Worker:
    """`celery worker`. As a context manager, its children live at the beginning, and it is killed at the end."""

    def __init__(self, shop: Shop, log_path: Path, concurrency: int, options: Sequence[str]) -> None:
        self.shop = shop
        self.log_path = log_path
        self.concurrency = concurrency
        self.options = options

    def __enter__(self) -> Worker:
        before = self.shop.children()
        command = [sys.executable, "-m", "celery", "-A", f"{APP}:celery_app", "worker", "-Q", "work,celery"]
        command += ["--concurrency", str(self.concurrency), "--loglevel", "INFO", "--without-gossip"]
        command += ["--without-mingle", *self.options]
        self.process = spawn(command, cwd=ROOT, log_path=self.log_path, env={**os.environ, **self.shop.env})
        wait_until(
            lambda: len(self.shop.children().keys() - before.keys()) >= self.concurrency, "the children", timeout=60
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """SIGKILL the worker and what is left of its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def terminate(self) -> None:
        """The warm shutdown."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log_path.read_text()[-4000:]

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")


class Broker:
    """A Redis or RabbitMQ that a test kills and wipes."""

    def __init__(self, server: RedisServer | RabbitServer, url: str) -> None:
        self.server = server
        self.url = url

    def lose_everything(self) -> None:
        """Crash, and come back with an empty disk."""
        if isinstance(self.server, RabbitServer):
            self.server.wipe()
        else:
            self.server.execute("FLUSHALL")
            self.server.kill()
            self.server.start()


@pytest.fixture(scope="module")
def redis_broker() -> Iterator[Broker]:
    with RedisServer() as server:
        yield Broker(server, server.url)


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Broker:
    """Redis, unless a test asks for another one."""
    if getattr(request, "param", "redis") == "redis":
        found: Broker = request.getfixturevalue("redis_broker")
        return found
    server: RabbitServer = request.getfixturevalue("rabbit_server")
    return Broker(server, server.url)


@pytest.fixture
def start(tmp_path: Path, broker: Broker) -> Iterator[Callable[..., Shop]]:
    with ExitStack() as stack:

        def begin(ledger: str = "sqlite", database: str = "", **env: str) -> Shop:
            everything = {
                "APP_LEDGER": ledger,
                "APP_DB": database or str(tmp_path / "tasks.db"),
                "APP_BROKER": broker.url,
                "APP_NOTES": str(tmp_path / "notes"),
                "APP_RELEASE": str(tmp_path / "release"),
                **env,
            }
            web = stack.enter_context(AppProcess(f"{APP}:app", tmp_path, env=everything))
            return Shop(web, tmp_path, everything)

        yield begin


async def differences(ledger: str, where: str, page: str) -> Sequence[Difference]:
    """What differs between the ledger and the metrics of all processes."""
    backend = make_backend(ledger, where)
    await backend.open()
    try:
        return await reconcile(backend, metrics={"page": page})
    finally:
        await backend.close()


@pytest.mark.parametrize(
    ("broker", "ledger"),
    [
        ("rabbitmq", "postgres"),
        # `make celery` has these too.
        pytest.param("redis", "sqlite", marks=pytest.mark.long),
        pytest.param("redis", "redis", marks=pytest.mark.long),
        pytest.param("rabbitmq", "mysql", marks=pytest.mark.long),
    ],
    indirect=["broker"],
)
def test_nothing_is_lost_and_nothing_ends_twice_when_any_process_is_killed(
    request: pytest.FixtureRequest, start: Callable[..., Shop], broker: Broker, ledger: str
) -> None:
    fixture = {"postgres": "postgres_url", "redis": "redis_url", "mysql": "mariadb_url"}.get(ledger)
    shop = start(ledger, request.getfixturevalue(fixture) if fixture else "", APP_TWICE="1")
    with shop.worker(1) as first:
        ids = shop.run("quick", 20) + shop.run("third_time", 5)
        shop.finish("the first tasks")
        # A child that dies while it runs a task.
        [held] = shop.run("held")
        wait_until(lambda: held in shop.notes("held"), "the start of the held task")
        victim = shop.notes("held")[held]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: shop.notes("held")[held] != victim, "its second start", timeout=60)
        if isinstance(broker.server, RedisServer):
            # In the middle of the work, all messages are gone, and what Celery keeps about its queues.
            ids += shop.run("quick", 20)
            broker.server.execute("FLUSHALL")
            ids += shop.run("quick", 5)
        # The worker itself, with tasks in hand: its children end with it.
        ids += shop.run("quick", 10)
        first.process.kill()
        wait_until(lambda: not shop.children(), "the end of the children", timeout=60)
        ids += shop.run("quick", 10)
    broker.lose_everything()
    shop.web.kill()
    shop.web.start()
    ids += shop.run("third_time", 5)
    Path(shop.env["APP_RELEASE"]).touch()
    with shop.worker(2) as second:
        shop.finish("all tasks")
        ids.append(held)
        ended = {one["task_id"]: one for one in shop.get("?limit=500")}
        assert Counter(one["status"] for one in ended.values()) == {"success": len(ids)}, shop.directory
        assert ended.keys() == set(ids)
        for one in ended.values():
            assert [line["transition"] for line in one["timeline"]].count("succeeded") == 1
        assert {one["queue"] for one in ended.values()} == {"celery"}

        found: list[Sequence[Difference]] = []

        def counted() -> bool:
            found.append(asyncio.run(differences(ledger, shop.env["APP_DB"], shop.metrics())))
            return not found[-1]

        try:
            wait_until(counted, "the reconciliation")
        except TimeoutError:
            assert found[-1] == []
        second.terminate()
    assert shop.children() == {}
    assert "Traceback" not in second.log


@pytest.mark.long
def test_a_hard_time_limit_is_a_crash(start: Callable[..., Shop], mariadb_url: str) -> None:
    shop = start("mysql", mariadb_url)
    with shop.worker(options=["--time-limit", "3"]) as worker:
        # Their engines run: the limit of Celery counts the start of an engine, too.
        [held] = shop.run("held")
        wait_until(lambda: held in shop.notes("held"), "the start of the held task")
        victim = shop.notes("held")[held]
        wait_until(lambda: shop.notes("held")[held] != victim, "its second start", timeout=60)
        Path(shop.env["APP_RELEASE"]).touch()
        shop.finish("the task")
        assert "Hard time limit" in worker.log
    again = shop.get(f"/{held}")
    assert again["status"] == "success"
    assert again["attempt"] >= 1


def test_celery_adds_replaces_removes_and_ends_children_which_drain_and_its_own_tasks_run_beside_ours(
    start: Callable[..., Shop], redis_url: str, tmp_path: Path
) -> None:
    shop = start("redis", redis_url, AUTOSCALE_KEEPALIVE="1", APP_GRACE="0.1")
    options = ["--autoscale", "3,1", "--max-tasks-per-child", "4"]
    with (
        shop.worker(concurrency=1, options=options) as worker,
        Celery(broker=shop.env["APP_BROKER"], set_as_current=False) as celery,
    ):
        held = shop.run("held", 3)
        wait_until(lambda: shop.notes("held").keys() == set(held), "three children", timeout=60)
        before = shop.notes("held")
        assert len(set(before.values())) == 3
        # `revoke` with `terminate` ends the child that runs the task, which starts again elsewhere.
        messages: list[dict[str, Any]] = []

        def told() -> bool:
            # A busy worker may answer too late: then there is no answer at all.
            for told_by in (celery.control.inspect(timeout=10).active() or {}).values():
                messages.extend(told_by)
            return bool(messages)

        wait_until(told, "the answer of the worker")
        celery.control.revoke(messages[0]["id"], terminate=True)
        wait_until(lambda: shop.notes("held") != before, "the start in another child", timeout=60)
        Path(shop.env["APP_RELEASE"]).touch()
        celery.send_task("tests.own", (str(tmp_path / "own"),), queue="work")
        quick, retried = shop.run("quick", 20), shop.run("third_time", 3)
        shop.finish("ours")
        wait_until((tmp_path / "own").exists, "the task of Celery", timeout=60)
        wait_until(lambda: len(shop.children()) == 1, "the end of the idle children", timeout=60)
        ended = {one["task_id"]: one["status"] for one in shop.get("?limit=500")}
        assert ended == dict.fromkeys([*held, *quick, *retried], "success")
        assert len(set(shop.notes("quick").values())) >= 5
        # Each child that was terminated, replaced, or removed has drained.
        assert [one for one in shop.get("/instances") if one["state"] == "dead"] == []
        # A warm shutdown waits for what runs.
        Path(shop.env["APP_RELEASE"]).unlink()
        [last] = shop.run("held")
        wait_until(lambda: last in shop.notes("held"), "the start of the last task")
        worker.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "Warm shutdown" in worker.log, "the shutdown")
        Path(shop.env["APP_RELEASE"]).touch()
        assert worker.process.wait(60) == 0
    assert shop.get(f"/{last}")["status"] == "success"
    assert shop.children() == {}
    assert "Traceback" not in worker.log


def test_a_task_has_the_same_spans_here_in_the_pool_and_on_celery(tmp_path: Path, start: Callable[..., Shop]) -> None:
    names = ("success", "third_time", "failing", "in_process")
    with OtlpReceiver() as receiver:
        shop = start(**receiver.environment)
        with shop.worker() as worker:
            ids = {(name, queue): shop.run(name, queue=queue)[0] for name in names for queue in QUEUES}
            delayed = {queue: shop.run("third_time", queue=queue, delay=0.05)[0] for queue in QUEUES}
            shop.finish("the tasks")
            worker.terminate()
        shop.web.terminate()

        def tree(task_id: str) -> list[tuple[object, ...]]:
            """Each span of a task and inside it: what it is, what it is in, and what it links to."""
            mine = [s for s in receiver.spans if s.attributes.get("messaging.message.id") == task_id]
            attempts = {s.span_id: f"{s.kind} {s.attributes.get('taskflow.attempt')}" for s in mine}
            inside = [s for s in receiver.spans if {a.span_id for a in receiver.ancestors(s)} & attempts.keys()]
            found = {s.span_id: s for s in (*mine, *inside)}.values()
            send = next(s for s in mine if s.kind == "PRODUCER")
            return sorted(
                (
                    s.name,
                    attempts.get(s.span_id, ""),
                    s.error,
                    [attempts.get(a.span_id, a.name) for a in receiver.ancestors(s)],
                    [attempts.get(link, "unknown") for link in s.links],
                    s.trace_id == send.trace_id,
                )
                for s in found
            )

        for name in names:
            here, pool, celery = (tree(ids[name, queue]) for queue in QUEUES)
            assert here == pool == celery, name
            assert len(celery) == {"success": 4, "third_time": 4, "failing": 2, "in_process": 3}[name]
        here, pool, celery = (tree(delayed[queue]) for queue in QUEUES)
        assert here == pool
        # A later process knows the attempt before its own, and not the first one.
        assert [part[:3] + part[4:] for part in celery] == [part[:3] + part[4:] for part in here]
