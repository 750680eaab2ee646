"""Bad arguments: the real command says in one line what is wrong, without passwords, and controls no terminal."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from taskflow_otel import TaskManager
from taskflow_otel.cli.main import commands
from taskflow_otel.cli.output import bar, say_table
from tests.cli.forked import ROOT, Ended, run_each
from tests.managers import started

HOSTILE = "\x1b]0;owned\x07\x1b[31m\u202e\r\nforged"
SECRET = "s3cret"
UUID = "00000000-0000-4000-8000-000000000000"
ASKED = ["--url", f"http://ada:{SECRET}@127.0.0.1:1/tasks"]
CHECK = ["reconcile", "--backend", "tasks.db"]

BAD: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "Missing command"),
    "no such command": (["dashbords"], "No such command 'dashbords'"),
    "hostile command": ([HOSTILE], "No such command"),
    "hostile option": (["--" + HOSTILE], "No such option"),
    "no action": (["dashboards"], "Missing command"),
    "no directory": (["dashboards", "export"], "Missing argument 'DIR'"),
    "hostile argument": (["dashboards", "export", "a", HOSTILE], "unexpected extra argument"),
    "not text": (["dashboards", "export", "a", "\udcff\udc80"], "unexpected extra argument"),
    "a file as directory": (["dashboards", "export", "text"], "cannot write to text"),
    "below a file": (["dashboards", "export", f"text/{HOSTILE}"], "cannot write to text"),
    "existing files": (["dashboards", "export", "full"], "give --force to overwrite"),
    "too long": (["dashboards", "export", "x" * 5000], "File name too long"),
    "runbooks that are no address": (["dashboards", "export", "a", "--runbooks", "x\ny: true"], "not an address"),
    "an alias as runbooks": (["dashboards", "export", "a", "--runbooks", "*x"], "not an address"),
    "no backend": (["reconcile"], "Missing option '--backend'"),
    "no database": (["reconcile", "--backend", f"missing{HOSTILE}"], "there is no database"),
    "empty backend": (["reconcile", "--backend", ""], "there is no database"),
    "a directory as database": (["reconcile", "--backend", "."], "there is no database"),
    "a text as database": (["reconcile", "--backend", "text"], "is not a SQLite database"),
    "a long database": (["reconcile", "--backend", "x" * 5000], "File name too long"),
    "an unknown database": (["reconcile", "--backend", f"oracle://ada:{SECRET}@host/db"], "oracle://ada:***@host/db"),
    "half a URL": (["reconcile", "--backend", "postgresql://"], "is not the URL of such a database"),
    "a port that is no number": (["reconcile", "--backend", f"postgresql://ada:{SECRET}@host:x/db"], "cannot be read"),
    "a MySQL URL": (["reconcile", "--backend", f"mysql://ada:{SECRET}@host"], "mysql"),
    "an unknown option": (
        ["reconcile", "--backend", f"postgresql://ada@host/db?password={SECRET}&x=1"], "cannot be set there"
    ),
    "a Redis URL": (["reconcile", "--backend", f"redis://ada:{SECRET}/{SECRET}@host:6379"], "the Redis URL is wrong"),
    "a Redis option": (["reconcile", "--backend", f"redis://:{SECRET}@host/0?db=x"], "Invalid value for 'db'"),
    "a server that does not answer": (["reconcile", "--backend", f"redis://ada:{SECRET}@127.0.0.1:1/0"], "Redis"),
    "a server that does not answer, too": (
        ["reconcile", "--backend", f"postgresql://ada:{SECRET}@127.0.0.1:1/db?sslmode=disable"], "postgresql"
    ),
    "not a time": ([*CHECK, "--since", "yesterday"], "not an ISO 8601 time"),
    "hostile time": ([*CHECK, "--until", HOSTILE], "not an ISO 8601 time"),
    "no baseline": ([*CHECK, "--since", "2026-01-01", "--metrics", "text"], "as --baseline"),
    "baseline that is not there": ([*CHECK, "--baseline", f"none{HOSTILE}"], "cannot be read"),
    "baseline that is a directory": ([*CHECK, "--baseline", "."], "cannot be read"),
    "baseline that is binary": ([*CHECK, "--baseline", "binary"], "cannot be read"),
    "no page": ([*CHECK, "--metrics", "none"], "the metrics page none cannot be read"),
    "a page that is a directory": ([*CHECK, "--metrics", "."], "cannot be read"),
    "a page that is no page": ([*CHECK, "--metrics", "text"], "is not a metrics page"),
    "a page of a file": ([*CHECK, "--metrics", "file:///etc/hostname"], "must be a file or an http(s) address"),
    "a page by FTP": ([*CHECK, "--metrics", f"ftp://ada:{SECRET}@host/x"], "must be a file or an http(s) address"),
    "a page that nobody serves": (
        [*CHECK, "--metrics", f"http://ada:{SECRET}@127.0.0.1:1/x?token={SECRET}"], "http://ada:***@127.0.0.1:1/x?token=***"
    ),
    "a page at no port": ([*CHECK, "--metrics", f"http://ada:{SECRET}/{SECRET}@host/"], "a port that is not a number"),
    "a page at no host": ([*CHECK, "--metrics", "http:///x"], "cannot be read"),
    "a page at half an address": ([*CHECK, "--metrics", "http://[::1/x"], "cannot be read"),
    "a token with a line end": ([*CHECK, "--metrics-token", f"{SECRET}\r\nX: y"], "printable ASCII"),
    "a token of other letters": ([*CHECK, "--metrics-token", f"{SECRET}é"], "printable ASCII"),
    "no export": ([*CHECK, "--export", f"none{HOSTILE}"], "cannot be read as OTLP"),
    "an export that is a directory": ([*CHECK, "--export", "."], "cannot be read as OTLP"),
    "an export that is binary": ([*CHECK, "--export", "binary"], "cannot be read as OTLP"),
    "an export that is text": ([*CHECK, "--export", "text"], "cannot be read as OTLP"),
    "an export that never ends": ([*CHECK, "--export", "deep"], "OTLP"),
    "a filter that is not text": (["ls", *ASKED, "--q", "\udcff"], "an argument cannot be sent"),
    "a filter that is too long": (["ls", *ASKED, "--func-name", "x" * 70_000], "an argument cannot be sent"),
    "a reason that is not text": (["retry", UUID, *ASKED, "--reason", "\udcff"], "an argument cannot be sent"),
    "an address that is not text": (["ls", "--url", "http://\udcff/tasks"], "base_url"),
    "a password that is not text": (["ls", "--url", f"http://ada:{SECRET}\udcff@host/tasks"], "base_url"),
    "a password with white space": (
        ["reconcile", "--backend", f"oracle://ada:{SECRET} {SECRET}\n{SECRET}@host/db"], "oracle://ada:***@host/db"
    ),
    "an application at no host": (["ls", "--url", f"http://{'a' * 64}.example/tasks"], "cannot be reached"),
    "an export of impossible times": ([*CHECK, "--export", "far"], "is not an OTLP export"),
    "no id": (["cancel", HOSTILE, *ASKED], "is not the id of a task"),
    "a task of nobody": (["show", UUID, *ASKED], "127.0.0.1"),
    "figures of nobody": (["stats", *ASKED], "127.0.0.1"),
    "figures of a hostile filter": (["stats", *ASKED, "--trace-id", HOSTILE], "127.0.0.1"),
    "queues of nobody": (["queues", *ASKED], "127.0.0.1"),
    "queues with a hostile argument": (["queues", HOSTILE, *ASKED], "unexpected extra argument"),
    "types of nobody": (["types", *ASKED], "127.0.0.1"),
    "types over a hostile time": (["types", "--window", HOSTILE, *ASKED], "is not one of '1h', '24h'"),
    "schedules of nobody": (["schedules", *ASKED], "127.0.0.1"),
    "schedules at half an address": (["schedules", "--url", f"http://ada:{SECRET}@[::1"], "not an address"),
    "instances of nobody": (["instances", *ASKED], "127.0.0.1"),
    "instances at no host": (["instances", "--url", f"http://ada:{SECRET}@a..b/{HOSTILE}"], "base_url"),
    "nothing to purge": (["purge", *ASKED], "Missing option '--before'"),
    "a hostile time to purge": (["purge", *ASKED, "--before", HOSTILE], "127.0.0.1"),
    "a reason to purge that is not text": (
        ["purge", *ASKED, "--before", "7d", "--reason", "\udcff"], "an argument cannot be sent"
    ),
    "the former name of reconcile": (["audit"], "Missing option '--backend'"),
    "a log of hostile text": (["logs", HOSTILE, *ASKED], "is not the id of a task"),
    "a log of nobody": (["logs", UUID, "-f", *ASKED], "127.0.0.1"),
    "a log of no database": (["logs", UUID, "--backend", f"missing{HOSTILE}"], "there is no database"),
    "tasks of an unknown database": (["ls", "--backend", f"oracle://ada:{SECRET}@host/db"], "oracle://ada:***@host/db"),
    "tasks of another program": (["ls", "--backend", "text"], "is not a SQLite database"),
    "tasks in no state": (["stats", "--backend", "empty.db", "--status", HOSTILE], "status must be one of pending"),
    "a time that nobody knows": (["ls", "--backend", "empty.db", "--since", HOSTILE], "since must be an ISO 8601 time"),
    "a queue that is not text": (["ls", "--backend", "empty.db", "--queue", "\udcff"], "queue must not contain"),
    "a rerun without an application": (["retry", UUID, "--backend", "empty.db", "--rerun"], "--rerun needs a running"),
    "a hostile time to purge in a backend": (
        ["purge", "--backend", "empty.db", "--before", HOSTILE], "before must be an ISO 8601 time"
    ),
    "an order to another program": (["cancel", UUID, "--backend", "text"], "is not a SQLite database"),
    "a hostile namespace": (["ls", "--backend", "empty.db", "--namespace", HOSTILE], "namespace must be"),
    "a namespace without a backend": (["stats", *ASKED, "--namespace", "shop"], "give --backend too"),
    "a hostile shell": (["completion", HOSTILE], "is not one of 'bash', 'zsh', 'fish'"),
    "a doctor of something else": (["doctor", HOSTILE], "unexpected extra argument"),
}  # fmt: skip

SICK: dict[str, tuple[list[str], str]] = {
    "half a collector": (["--otlp", f"http://ada:{SECRET}@[::1"], "this is not an address"),
    "a collector at no host": (["--otlp", f"http://ada:{SECRET}@a..b:4317"], "this is not an address"),
    "a long collector": (["--otlp", f"http://{'a' * 64}.example:4317"], "this is not an address"),
    "a collector without a scheme": (["--otlp", f"ada:{SECRET}@127.0.0.1:1"], "nothing listens at 127.0.0.1:1"),
    "a hostile collector": (["--otlp", f"http://{HOSTILE}"], "collector http://"),
    "an application of nobody": (ASKED, "127.0.0.1"),
    "an application without a scheme": (["--url", f"ada:{SECRET}@host"], "base_url"),
    "half an application": (["--url", f"http://ada:{SECRET}@[::1"], "not an address"),
    "an application at no host": (["--url", f"http://ada:{SECRET}@a..b"], "cannot be reached"),
    "a hostile application": (["--url", f"http://host/{HOSTILE}"], "base_url"),
    "an unknown database": (["--backend", f"oracle://ada:{SECRET}@host/{HOSTILE}"], "oracle://ada:***@host/"),
    "a hostile path": (["--backend", f"none/{HOSTILE}/x"], "there is no directory"),
    "a text as database": (["--backend", "text"], "is not a SQLite database"),
    "a directory as database": (["--backend", "."], "there is no database"),
}  # fmt: skip
"""For `doctor`, which answers with findings: the last one is an error that says so."""
FORMS: dict[str, list[str]] = {"doctor: ": [], "doctor as JSON: ": ["--json"]}

ELSEWHERE = {"worker", "demo"}
"""They need an application to import: tests/cli/test_worker.py and test_demo.py have their bad arguments."""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """How the command ended with each of the bad lists of arguments, by their names."""
    place = tmp_path_factory.mktemp("work")
    (place / "text").write_text("dear diary, this is {")
    (place / "binary").write_bytes(bytes(range(256)))
    (place / "deep").write_text("[" * 100_000)
    span = '{"name": "x", "traceId": "a", "spanId": "b", "startTimeUnixNano": "9999999999999999999999999"}'
    scope = '{"scope": {"name": "taskflow_otel"}, "spans": [' + span + "]}"
    (place / "far").write_text('{"resourceSpans": [{"scopeSpans": [' + scope + "]}]}")
    (place / "full").mkdir()
    (place / "full" / "docker-compose.observability.yml").touch()
    (place / "empty.db").touch()
    with closing(sqlite3.connect(place / "tasks.db")) as connection:
        connection.execute("CREATE TABLE another_program (x)")
    lists = [arguments for arguments, _ in BAD.values()]
    names = [*BAD]
    for form, more in FORMS.items():
        lists += [["doctor", *more, *arguments] for arguments, _ in SICK.values()]
        names += [form + name for name in SICK]
    return dict(zip(names, run_each(lists, place), strict=True))


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_argument_is_answered_with_a_sentence(ended: dict[str, Ended], kind: str) -> None:
    status, out, err = ended[kind]
    assert (status, out) == (2, ""), err
    assert BAD[kind][1] in err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("taskflow-otel")
    assert SECRET not in err
    assert [line for line in err.split("\n") if not line.isprintable()] == [], "something could control the terminal"
    assert not [line for line in err.split("\n") if line.startswith("forged")]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", SICK)
def test_the_doctor_answers_with_a_finding(ended: dict[str, Ended], kind: str, form: str) -> None:
    status, out, err = ended[form + kind]
    assert (status, err) == (1, "")
    last = out.splitlines()[-1]
    assert SICK[kind][1] in last
    if FORMS[form]:
        assert json.loads(last)["verdict"] == "error"
    else:
        assert last.startswith("error")
    assert SECRET not in out
    assert [line for line in out.split("\n") if not line.isprintable() or line.startswith("forged")] == []


def test_every_command_is_given_bad_arguments() -> None:
    tried = {"doctor", *(arguments[0] for arguments, _ in BAD.values() if arguments)} | ELSEWHERE
    assert set(commands.commands) - tried == set()
    assert not ELSEWHERE - set(commands.commands)


def test_where_nobody_reads_the_output_the_command_ends_quietly(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "taskflow_otel", "dashboards", "export", str(tmp_path / "stack")]
    done = subprocess.run(
        command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=60
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (2, "")


def at_a_terminal(arguments: list[str], cwd: Path, **environment: str) -> str:
    """What the command prints where a person looks."""
    leader, follower = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "120", **environment}
    with subprocess.Popen(
        [sys.executable, "-m", "taskflow_otel", *arguments], cwd=cwd, env=env, stdout=follower, stderr=follower
    ) as process:
        os.close(follower)
        text = b""
        # The end of a terminal is an error.
        with suppress(OSError):
            while piece := os.read(leader, 65536):
                text += piece
        assert process.wait(60) in (0, 1)
    os.close(leader)
    return text.decode()


def test_a_terminal_gets_colours_unless_it_asks_for_none_and_no_text_controls_it(tmp_path: Path) -> None:
    database = tmp_path / "tasks.db"
    manager = TaskManager(snapshot_db=database)

    @manager.task(persist=True)
    async def print_report() -> None:
        raise OSError(f"[bold]{HOSTILE} postgresql://ada:{SECRET}@db/shop")

    async def run() -> None:
        async with started(manager):
            await manager.wait(await manager.enqueue(print_report))

    asyncio.run(run())
    listed = ["ls", "--backend", str(database)]
    coloured, plain = at_a_terminal(listed, tmp_path), at_a_terminal(listed, tmp_path, NO_COLOR="1")
    assert "\x1b[31mfailed" in coloured
    assert "\x1b[31m" not in plain
    for text in (coloured, plain):
        assert ("[bold]" in text, "\x1b]0;" in text, "\u202e" in text, SECRET in text) == (True, False, False, False)
    # A bar is erased once it is complete.
    compared = at_a_terminal(["reconcile", "--backend", str(database)], tmp_path)
    assert "0 differences" in compared


def test_without_rich_a_terminal_gets_plain_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    rich, without = Terminal(), Terminal()
    say_table(("name", "status"), [("a", "failed"), ("bcd", None)], rich)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    say_table(("name", "status"), [("a", "failed"), ("bcd", None)], without)
    with bar("tasks", without) as advance:
        advance(1, 2)
    assert without.getvalue() == "name  status\na     failed\nbcd   -\n"
    assert rich.getvalue() != without.getvalue()
    assert rich.getvalue().split()[:2] == ["name", "status"] or "\x1b" in rich.getvalue()
