"""The example of several processes: a valid compose file, and its services as plain processes that are killed."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import yaml

from taskflow_otel.cli.worker import worker as worker_command
from taskflow_otel.engine.deployment import RUN, deployment
from tests.procs import ROOT, AppProcess
from tests.servers import spawn
from tests.waiting import wait_until

EXAMPLE = ROOT / "examples/compose"
FILE: dict[str, Any] = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
APP = (EXAMPLE / "app.py").read_text()
PASSWORD = "correct horse"


class ServiceProcess(AppProcess):
    """A service of the compose file without its container, on a port of its own."""

    def __init__(self, name: str, directory: Path, url: str, broker: str) -> None:
        directory.mkdir()
        self.service = SERVICES[name]
        super().__init__(name, directory, env=environment(name, url, broker), cwd=EXAMPLE)

    def command(self) -> Sequence[str]:
        program, *arguments = self.service["command"]
        for option, value in (("--port", str(self.port)), ("--host", "127.0.0.1")):
            arguments[arguments.index(option) + 1] = value
        return [sys.executable, "-m", {"taskflow-otel": "taskflow_otel"}.get(program, program), *arguments]


def environment(name: str, url: str, broker: str) -> dict[str, str]:
    """The variables of a service, with the addresses of another database and broker."""
    secrets = {"TASKS_PASSWORD": PASSWORD, "TASKS_SECRET_KEY": "x" * 32}
    given = {
        key: re.sub(r"\$\{(\w+)[^}]*\}", lambda found: secrets[found[1]], value)
        for key, value in SERVICES[name]["environment"].items()
    }
    return {**given, "DATABASE_URL": url, "CELERY_BROKER_URL": broker}


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """The process and its children are dead at the end."""
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_compose_file_follows_the_compose_specification() -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec",
            str(EXAMPLE / "compose.yaml"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_what_the_services_say_is_read_by_the_application_the_library_and_the_commands() -> None:
    read = set(re.findall(r'os\.environ\["(\w+)"\]', APP))
    database, broker = SERVICES["postgres"]["environment"], SERVICES["rabbitmq"]["environment"]
    ours = {name: service for name, service in SERVICES.items() if "build" in service}
    for service in ours.values():
        given = service["environment"]
        assert given.keys() - {RUN} == read
        user, password, host, name = re.findall(r"//(\w+):(\w+)@(\w+):5432/(\w+)", given["DATABASE_URL"])[0]
        assert (user, password, name) == tuple(database[f"POSTGRES_{key}"] for key in ("USER", "PASSWORD", "DB"))
        assert host in SERVICES
        address = f"amqp://{broker['RABBITMQ_DEFAULT_USER']}:{broker['RABBITMQ_DEFAULT_PASS']}@rabbitmq:5672//"
        assert given["CELERY_BROKER_URL"] == address
        assert all(other in SERVICES for other in service["depends_on"])
        assert (EXAMPLE / service["build"] / "Dockerfile").exists()
        # Each process that drains gets more time than all its parts take.
        if "stop_grace_period" in service:
            [drain] = [float(value) for value in re.findall(r"^SHUTDOWN_TIMEOUT = ([\d.]+)$", APP, re.MULTILINE)]
            assert float(service["stop_grace_period"].removesuffix("s")) >= drain + 5 + 10
    assert deployment({RUN: SERVICES["web"]["environment"][RUN]}).run == "none"
    assert SERVICES["tables"]["command"] == ["python", "app.py"]
    _, _, application, *options = SERVICES["worker"]["command"]
    parsed = worker_command.make_context("worker", [application, *options]).params
    assert set(parsed["queues"].split(",")) == set(re.findall(r'"(\w+)": QueueConfig\([^)]*run="pool"', APP))
    program, *options = SERVICES["celery"]["command"]
    assert (program, options[:3]) == ("celery", ["--app", "app:celery_app", "worker"])
    listens = set(options[options.index("--queues") + 1].split(","))
    assert listens == set(re.findall(r'run="celery", celery_queue="(\w+)"', APP))
    for name in ("web", "worker"):
        command, probe = SERVICES[name]["command"], SERVICES[name]["healthcheck"]["test"]
        assert f"127.0.0.1:{command[command.index('--port') + 1]}/" in shlex.join(probe)
    dockerfile = (EXAMPLE / "Dockerfile").read_text()
    assert "COPY app.py" in dockerfile
    assert all(extra in dockerfile for extra in ("celery", "postgres", "worker"))


def test_the_services_work_as_plain_processes_and_lose_nothing_when_a_worker_is_killed(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    # Redis is the broker: RabbitMQ takes longer to start, and tests/e2e/test_celery.py has it.
    program, *arguments = SERVICES["tables"]["command"]
    assert program == "python"
    variables = {**os.environ, **environment("tables", postgres_url, redis_url)}
    subprocess.run([sys.executable, *arguments], cwd=EXAMPLE, env=variables, check=True, timeout=60)
    web = ServiceProcess("web", tmp_path / "web", postgres_url, redis_url)
    replicas = SERVICES["worker"]["deploy"]["replicas"]
    workers = [ServiceProcess("worker", tmp_path / f"worker-{n}", postgres_url, redis_url) for n in range(replicas)]
    celery = spawn(
        [sys.executable, "-m", *SERVICES["celery"]["command"]],
        cwd=EXAMPLE,
        env={**os.environ, **environment("celery", postgres_url, redis_url)},
        log_path=tmp_path / "celery.log",
    )
    with (
        ended(celery),
        web,
        workers[0],
        workers[1],
        httpx.Client(base_url=web.url, auth=("ops", PASSWORD), timeout=60) as client,
    ):
        answers = [client.post(f"/orders/{number}") for number in range(40)]
        assert Counter(answer.status_code for answer in answers) == {202: 20, 409: 20}
        ids = [task_id for answer in answers if answer.is_success for task_id in answer.json()["task_ids"]]
        workers[0].kill()
        workers[0].start()

        def stored() -> dict[str, dict[str, Any]]:
            found = client.get("/tasks", params={"limit": 200}).raise_for_status().json()
            return {task["task_id"]: task for task in found}

        wait_until(lambda: {task["status"] for task in stored().values()} == {"success"}, "every task", timeout=60)
        assert stored().keys() == set(ids)

        def kinds() -> Counter[str]:
            return Counter(one["kind"] for one in client.get("/tasks/instances").json() if one["state"] == "alive")

        # The one that was killed may still hold its lease, and each one says a moment after its start what it is.
        wait_until(lambda: kinds()["worker"] >= replicas, "the workers")
        assert kinds()["web"] == 1
        runners = {task["instance"] for task in stored().values()}
        instances = client.get("/tasks/instances").json()
        webs = {one["instance_id"] for one in instances if one["kind"] == "web"}
        assert not runners & webs
        invoices = {task["instance"] for task in stored().values() if task["queue"] == "invoices"}
        assert invoices <= {one["instance_id"] for one in instances if one["kind"] == "celery"}
        assert httpx.get(f"{workers[1].url}/orders/1").status_code == 404
        assert httpx.get(f"{workers[1].url}/tasks/readyz").status_code == 200
        celery.terminate()
        assert celery.wait(60) == 0
        for process in (*workers, web):
            process.terminate()
