"""`taskflow-otel ls`, `show`, `retry` and `cancel`: the real command asks a real server through the client."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import get_args, get_type_hints

import pytest
from fastapi import FastAPI

from taskflow_otel.cli.main import main
from taskflow_otel.cli.options import FILTERS
from taskflow_otel.client.rules import Filters
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.web.params import task_filter
from tests.web.conftest import Served
from tests.web.house import House, make_record
from tests.web.users import USER

Serving = Callable[..., AbstractAsyncContextManager[Served]]
AppOf = Callable[..., FastAPI]
HOSTILE = "no paper\x1b[31m\u202e"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


async def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")}
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "taskflow_otel", *arguments],
        env={**clean, **environment}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


async def test_tasks_are_listed_shown_retried_and_cancelled(app_of: AppOf, engine: House, serving: Serving) -> None:
    failed = engine.put(make_record(status=TaskStatus.FAILED, error=HOSTILE, error_type="OSError"))
    succeeded = engine.put(make_record())

    @engine.manager.task()
    async def wait_forever() -> None:
        await asyncio.Event().wait()

    running = await engine.manager.enqueue(wait_forever)
    async with serving(app_of(auth=USER)) as served:
        url = served.url.replace("://", f"://{USER[0]}:{USER[1]}@") + "/tasks"
        listed = await command("ls", "--status", "failed", TASKFLOW_URL=url)
        assert (listed.returncode, listed.stderr) == (0, "")
        [line] = listed.stdout.splitlines()
        assert line.startswith(failed.task_id)
        assert line.endswith(r"OSError: no paper\x1b[31m\u202e")

        every = await command("ls", "--json", "--limit", "2", "--url", url)
        assert {json.loads(line)["task_id"] for line in every.stdout.splitlines()} <= {
            failed.task_id, succeeded.task_id, running,
        }  # fmt: skip
        assert len(every.stdout.splitlines()) == 2

        shown = await command("show", failed.task_id, "--url", url)
        assert shown.returncode == 0
        assert [word in shown.stdout for word in ("enqueued", "started", "failed")] == [True] * 3

        retried = await command("retry", failed.task_id, succeeded.task_id, UNKNOWN, "--json", "--url", url)
        assert retried.returncode == 1
        assert json.loads(retried.stdout)["retry_of"] == failed.task_id
        assert [line.partition(":")[0] for line in retried.stderr.splitlines()] == [succeeded.task_id, UNKNOWN]
        again = await command("retry", succeeded.task_id, "--rerun", "--reason", "asked for", "--url", url)
        assert (again.returncode, again.stderr) == (0, "")

        cancelled = await command("cancel", running, "--url", url)
        assert (cancelled.returncode, cancelled.stdout[:36]) == (0, running)
    assert (await engine.manager.wait(running)).status is TaskStatus.CANCELLED


async def test_what_a_task_says_controls_no_terminal_and_shows_no_password(
    app_of: AppOf, engine: House, serving: Serving
) -> None:
    said = "\x1b]0;owned\x07\u202e\r\nforged postgresql://ada:s3cret word@db.internal/shop"
    hostile = engine.put(
        make_record(
            "build_report",
            TaskStatus.FAILED,
            error=said,
            error_type=said,
            stacktrace=f"{said}\n  {said}",
            reason=said,
            tags={said: said},
        )
    )
    engine.log(hostile, said, extra=said)
    async with serving(app_of(display_func_args=True)) as served:
        for arguments in (["show", hostile.task_id], ["ls"], ["show", hostile.task_id, "--json"], ["ls", "--json"]):
            shown = await command(*arguments, "--url", f"{served.url}/tasks")
            assert (shown.returncode, shown.stderr) == (0, ""), arguments
            assert "s3cret" not in shown.stdout, arguments
            assert "postgresql://ada:***@db.internal/shop" in shown.stdout, arguments
            lines = shown.stdout.split("\n")
            assert [line for line in lines if not line.isprintable() or line.startswith("forged")] == [], arguments
            if "--json" in arguments:
                [found] = [json.loads(line) for line in lines if line]
                assert found["task_id"] == hostile.task_id
                assert found["error"].startswith("\x1b]0;owned\x07\u202e\r\nforged postgresql://ada:***@")


async def test_a_task_that_is_refused_hides_no_other_and_a_refused_login_ends_the_command(
    app_of: AppOf, engine: House, serving: Serving
) -> None:
    failed = [engine.put(make_record(status=TaskStatus.FAILED)).task_id for _ in range(2)]
    running = engine.put(make_record(status=TaskStatus.RUNNING)).task_id
    ids = [UNKNOWN, failed[0], running, UNKNOWN, failed[1]]
    async with serving(app_of(auth=USER)) as served:
        url = served.url.replace("://", f"://{USER[0]}:{USER[1]}@") + "/tasks"
        retried = await command("retry", *ids, "--json", "--url", url)
        assert retried.returncode == 1
        assert [json.loads(line)["retry_of"] for line in retried.stdout.splitlines()] == failed
        assert [line.partition(": ")[0] for line in retried.stderr.splitlines()] == [UNKNOWN, running, UNKNOWN]
        assert "only a finished task can be retried" in retried.stderr.splitlines()[1]
        cancelled = await command("cancel", failed[0], UNKNOWN, running, "--url", url)
        assert (cancelled.returncode, cancelled.stdout[:36]) == (1, running)
        assert [line.partition(": ")[0] for line in cancelled.stderr.splitlines()] == [failed[0], UNKNOWN]
        stopped = await command("retry", *ids, "--url", f"{served.url}/tasks")
        assert (stopped.returncode, stopped.stdout, len(stopped.stderr.splitlines())) == (2, "", 1)


def test_the_filters_are_those_of_the_client_which_are_those_of_the_api() -> None:
    assert list(FILTERS) == list(Filters.__annotations__) == list(inspect.signature(task_filter).parameters)
    said = get_type_hints(task_filter, include_extras=True)
    # The query of a filter is the last part of its annotation.
    assert {name: get_args(said[name])[-1].description for name in FILTERS} == FILTERS


async def test_tasks_are_searched_by_their_arguments_and_how_far_is_said(
    app_of: AppOf, engine: House, serving: Serving
) -> None:
    payload = '{"v":1,"names":["order"],"args":[%d],"kwargs":{}}'
    ids = [engine.put(make_record(payload=payload % number)).task_id for number in (782, 5, 782, 6)]
    engine.put(make_record(payload="fernet1:x"))
    async with serving(app_of(display_func_args=True)) as served:
        every, one = await asyncio.gather(
            command("ls", "--args", "order:782", "--url", f"{served.url}/tasks"),
            command("ls", "--args", "order:782", "--limit", "1", "--json", "--url", f"{served.url}/tasks"),
        )
    assert (every.returncode, [line[:36] for line in every.stdout.splitlines()]) == (0, [ids[2], ids[0]])
    unread = "those of 1 more cannot be read (encrypted, damaged or unknown)"
    assert every.stderr == f"searched the arguments of 4 tasks, which are all; {unread}\n"
    assert [json.loads(line)["task_id"] for line in one.stdout.splitlines()] == [ids[2]]
    back_to = engine.records[ids[2]].created_at
    assert one.stderr == f"searched the arguments of 2 tasks, back to {back_to:%Y-%m-%d %H:%M:%S} UTC; {unread}\n"


async def test_a_wrong_password_is_one_line_that_does_not_show_it(app_of: AppOf, serving: Serving) -> None:
    async with serving(app_of(auth=USER)) as served:
        url = served.url.replace("://", "://ada:s3cret@") + "/tasks"
        refused = await command("ls", "--url", url)
        assert (refused.returncode, refused.stdout) == (2, "")
        [line] = refused.stderr.splitlines()
        assert line.startswith("taskflow-otel: ")
        assert "401" in line
        assert "s3cret" not in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ls"], "which application?"),
        (["ls", "--url", "ftp://ada:s3cret@host/tasks"], "must be the http(s) address"),
        (["ls", "--url", "http://ada:s3cret@127.0.0.1:1/tasks"], "127.0.0.1"),
        (["ls", "--url", "http://ada:s3cret/rest@host/tasks"], "write %2F for /"),
    ],
)
def test_an_address_that_does_not_serve_is_one_line_without_a_password(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TASKFLOW_URL", raising=False)
    assert main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
    assert "s3cret" not in line


@pytest.mark.parametrize("action", ["show", "retry", "cancel"])
@pytest.mark.parametrize("task_id", ["foo", "../x", "\udcff", UNKNOWN.replace("-4", "-A")])
def test_what_is_no_id_of_a_task_is_refused_before_anything_is_done(
    action: str, task_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([action, task_id, "--url", "http://localhost/tasks"])
    assert ended.value.code == 2
    assert "is not the id of a task" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["0", "-1", "ten", "1000001", "\u0663"])
def test_a_limit_that_is_no_number_of_tasks_is_refused(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["ls", "--limit", limit, "--url", "http://localhost/tasks"])
    assert ended.value.code == 2
    assert "is not a number of tasks" in capsys.readouterr().err
