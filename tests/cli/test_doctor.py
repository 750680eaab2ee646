"""`taskflow-otel doctor`, on healthy set-ups and on broken ones: each finding says what to do."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

import taskflow_otel.backends.redis
from taskflow_otel.backends import SqliteBackend
from taskflow_otel.cli import doctor
from taskflow_otel.cli.doctor import Finding, Verdict
from taskflow_otel.cli.main import main
from taskflow_otel.model.query import Instance
from taskflow_otel.runtime.clock import SYSTEM_CLOCK
from tests.servers import RedisServer, free_port
from tests.web.conftest import Served
from tests.web.house import House
from tests.web.users import USER

Serving = Callable[..., AbstractAsyncContextManager[Served]]
AppOf = Callable[..., FastAPI]
OK, WARNING, ERROR = Verdict.OK, Verdict.WARNING, Verdict.ERROR


async def of_backend(where: object) -> list[Finding]:
    return [finding async for finding in doctor.examine_backend(str(where))]


async def of_application(url: str) -> list[Finding]:
    return await asyncio.to_thread(lambda: list(doctor.examine_application(url)))


def instance(name: str, host: str, ahead: float) -> Instance:
    moment = SYSTEM_CLOCK.now() + timedelta(seconds=ahead)
    return Instance(name, host, 1, "", moment, moment, 15.0)


@pytest.fixture
async def database(tmp_path: Path) -> Path:
    """A database with two instances, both of one host and alive."""
    path = tmp_path / "tasks.db"
    await told(path, instance("one", "here", -1))
    return path


async def told(path: Path, *instances: Instance) -> None:
    """Let instances send a heartbeat."""
    backend = SqliteBackend(path)
    await backend.open()
    for one in instances:
        await backend.beat(one)
    await backend.close()


def test_the_command_prints_each_finding_and_says_by_its_status_whether_one_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--backend", str(tmp_path / "tasks.db")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "ok", "ok"]
    assert "the application will create it" in lines[2]
    assert main(["doctor", "--json", "--backend", str(tmp_path / "no" / "tasks.db")]) == 1
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["verdict"], last["message"].endswith(": create it")) == ("error", True)


async def test_a_directory_in_which_this_account_may_not_write_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write everywhere.
    monkeypatch.setattr(os, "access", lambda *_: False)
    [finding] = await of_backend(tmp_path / "tasks.db")
    assert (finding.verdict, "may not write to" in finding.message) == (ERROR, True)


def test_an_extra_that_is_not_there_comes_with_its_line_of_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "redis", "no_such_module.at_all")
    found = {finding.subject: finding.message for finding in doctor.examine_installation()}
    assert found["extras"].endswith("for more: pip install 'taskflow-otel[redis]'")


async def test_a_healthy_backend_is_well(database: Path) -> None:
    assert [finding.verdict for finding in await of_backend(database)] == [OK]


async def test_a_backend_that_cannot_be_used_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.db").write_text("no database, but a text that is long enough to be one" * 100)
    closed = free_port()
    for where, says in {
        tmp_path / "text.db": "is not a SQLite database",
        "mongodb://localhost/tasks": "must be a postgresql, mysql or redis URL",
        f"postgresql://ada:secret@127.0.0.1:{closed}/tasks": "",
        f"redis://127.0.0.1:{closed}/0": "",
    }.items():
        [finding] = await of_backend(where)
        assert (finding.verdict, says in finding.message) == (ERROR, True), finding
        assert "secret" not in str(finding)
    # As if the driver were not installed.
    monkeypatch.delattr(taskflow_otel.backends.redis, "connection", raising=False)
    monkeypatch.delitem(sys.modules, "taskflow_otel.backends.redis.connection", raising=False)
    monkeypatch.setitem(sys.modules, "redis", None)
    [finding] = await of_backend("redis://127.0.0.1/0")
    assert "pip install" in finding.message


async def test_a_schema_of_a_later_version_says_to_upgrade(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE taskflow_meta SET value = '999' WHERE name = 'schema_version'")
    [finding] = await of_backend(database)
    assert finding.verdict is ERROR
    assert "Upgrade taskflow-otel" in finding.message


async def test_clocks_that_differ_silent_instances_and_a_file_that_two_hosts_share_are_noticed(database: Path) -> None:
    await told(database, instance("two", "here", 60), instance("three", "there", -1), instance("dead", "here", -3600))
    found = await of_backend(database)
    assert [finding.verdict for finding in found] == [OK, WARNING, ERROR, ERROR]
    assert "1 of 4 instances are silent" in found[1].message
    assert "the clock of two is" in found[2].message
    assert "2 hosts use this SQLite file" in found[3].message


async def test_a_redis_that_forgets_is_a_warning() -> None:
    with RedisServer({"appendonly": "no"}) as server:
        found = await of_backend(server.url)
    assert [finding.verdict for finding in found] == [OK, WARNING]
    assert "append-only file" in found[1].message


async def test_an_application_is_well_or_says_what_is_missing(app_of: AppOf, engine: House, serving: Serving) -> None:
    async with serving(app_of(auth=USER)) as served:
        inside = served.url.replace("://", f"://{USER[0]}:{USER[1]}@") + "/tasks"
        assert [finding.verdict for finding in await of_application(inside)] == [OK]
        [refused] = await of_application(f"{served.url}/tasks")
        assert (refused.verdict, "TASKFLOW_TOKEN" in refused.message) == (ERROR, True)
        [elsewhere] = await of_application(f"{served.url}/elsewhere")
        assert elsewhere.verdict is ERROR
    [gone] = await of_application(f"http://127.0.0.1:{free_port()}/tasks")
    assert gone.verdict is ERROR
    async with serving(app_of()) as served:
        found = await of_application(f"{served.url}/tasks")
    assert [finding.verdict for finding in found] == [OK, WARNING]
    assert "open to everyone" in found[1].message


async def test_a_collector_listens_or_not() -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert (await doctor.examine_collector(f"http://127.0.0.1:{port}")).verdict is OK
    server.close()
    await server.wait_closed()
    closed = await doctor.examine_collector(f"127.0.0.1:{free_port()}")
    assert (closed.verdict, "Start the collector" in closed.message) == (ERROR, True)


@pytest.mark.parametrize(
    "url",
    [
        "http://:4317", "http://[::1", "http://a..b:4317", f"http://{'a' * 64}.example:4317", "http://host:x",
        "http://host:99999", "http://\udcff:4317", "a..b:4317",
    ],
)  # fmt: skip
def test_what_is_no_address_of_a_collector_is_a_finding_however_it_is_given(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert main(["doctor", "--otlp", url]) == 1
    given = capsys.readouterr().out
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out == given
    assert "this is not an address; it should look like" in given.splitlines()[-1]


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize(
    "where",
    [("--otlp", "http://"), ("--otlp", ""), ("--url", "http://"), ("--url", ""), ("--backend", "redis://")],
)
def test_no_finding_shows_a_password(
    where: tuple[str, str], form: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    option, scheme = where
    assert main(["doctor", *form, option, f"{scheme}ada:s3cret@127.0.0.1:{free_port()}/0"]) == 1
    out, err = capsys.readouterr()
    assert ("***" in out, "s3cret" in out + err) == (True, False)


def test_the_password_in_the_message_of_a_finding_is_not_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Finding("x", OK, "postgresql://ada:s3cret@host/db is down")
    monkeypatch.setattr(doctor, "examine_installation", lambda: iter([said]))
    for form in ([], ["--json"]):
        main(["doctor", *form])
        out = capsys.readouterr().out
        assert ("postgresql://ada:***@host/db is down" in out, "s3cret" in out) == (True, False)


@pytest.mark.parametrize(
    ("date", "says"),
    [
        ("yesterday", "it sent 'yesterday' as its time"),
        ("Mon, 99 Foo 2026 00:00:00 GMT", "cannot be read"),
        (f"Mon, 01 Jan {'9' * 30} 00:00:00 GMT", "cannot be read"),
        ("Mon, 01 Jan 2001 00:00:00 -0000", "differs from this one by"),
        ("Mon, 01 Jan 2001 00:00:00 GMT", "differs from this one by"),
        (None, None),
        ("Mon, 01 Jan 2001 00:00:00 +9999", "cannot be read"),
    ],
)
def test_whatever_time_a_server_sends_is_compared_or_named(
    date: str | None, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = httpx.Response(200, headers={} if date is None else {"Date": date})
    monkeypatch.setattr(httpx, "get", lambda *_, **__: answer)
    found = list(doctor._clock_of("application", "http://localhost/tasks"))
    assert [finding.verdict for finding in found] == [WARNING] * (says is not None)
    assert all(says is not None and says in finding.message for finding in found)


def test_a_server_that_ends_before_it_tells_its_time_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **__: object) -> None:
        raise httpx.ReadError("")

    monkeypatch.setattr(httpx, "get", lost)
    [finding] = doctor._clock_of("application", "http://localhost/tasks")
    assert (finding.verdict, finding.message) == (WARNING, "its clock cannot be read: ReadError")
