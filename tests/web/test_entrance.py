"""What is read of a request before it is known who makes it, and how much after that."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import Message

from taskflow_otel import ApiToken
from tests.procs import AppProcess
from tests.web.test_matrix import ADA, KEY, OWN, session
from tests.web.users import PROBES, USER, Directory

MEGABYTE = b"x" * 1_000_000
_BASIC = {name: base64.b64encode(f"{name}:right".encode()) for name in ("ada", "vic")}


def operations(app: FastAPI) -> list[tuple[str, str]]:
    """Method and address of each documented route that needs a login."""
    return [
        (method.upper(), path.format(task_id="x", operation_id="x", fingerprint="0" * 16, name="mail"))
        for path, methods in app.openapi()["paths"].items()
        for method in methods
        if path not in PROBES
    ]


class Upload:
    """A request with a body of 100 MB, in pieces of one; counts the pieces that are asked for."""

    def __init__(self, app: FastAPI, method: str, path: str, *headers: tuple[bytes, bytes]) -> None:
        self._app = app
        self._pieces = 100
        self.received = 0
        self.status = 0
        self.body = b""
        target, _, query = path.partition("?")
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": target,
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"host", b"test"), (b"content-type", b"application/json"), *headers],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
        }

    async def send(self) -> Any:
        """Send it until the answer is there; returns the answer's JSON."""
        await self._app(self._scope, self._receive, self._answer)
        return json.loads(self.body)

    async def _receive(self) -> Message:
        self.received += 1
        self._pieces -= 1
        return {"type": "http.request", "body": MEGABYTE, "more_body": self._pieces > 0}

    async def _answer(self, message: Message) -> None:
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")


@pytest.mark.parametrize("options", [{"auth": USER}, OWN], ids=["passwords", "the application's own sign-in"])
async def test_no_byte_of_a_body_is_read_before_it_is_known_who_sends_it(
    app_of: Callable[..., FastAPI], options: dict[str, Any]
) -> None:
    app = app_of(**options)
    for method, path in [*operations(app), ("GET", "/tasks/"), ("POST", "/tasks/logout")]:
        upload = Upload(app, method, path)
        await upload.send()
        assert (upload.status, upload.received) == (401, 0), (method, path)


async def test_no_byte_of_a_body_is_read_from_someone_who_may_not_act(app_of: Callable[..., FastAPI]) -> None:
    app = app_of(auth=Directory())
    actions = [(method, path) for method, path in operations(app) if method != "GET"]
    assert len(actions) >= 11
    for method, path in actions:
        upload = Upload(app, method, path, (b"authorization", b"Basic " + _BASIC["vic"]))
        await upload.send()
        assert (upload.status, upload.received) == (403, 0), (method, path)


SECRET = "s" * 40
REFUSED: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "a token without the scope": (
        {"auth": USER, "tokens": [ApiToken("ci", SECRET, {"read", "metrics"})]}, {"Authorization": f"Bearer {SECRET}"}
    ),
    "a token of another scope": (
        {"auth": USER, "tokens": [ApiToken("ci", SECRET, {"schedules"})]}, {"Authorization": f"Bearer {SECRET}"}
    ),
    "a read-only administration": ({"auth": Directory(), "read_only": True}, ADA),
    "an open read-only administration": ({"read_only": True}, {}),
    "a page of another site": ({"auth": Directory()}, {**ADA, "Origin": "https://evil.example"}),
    "a page of another site, as the browser says": ({"auth": Directory()}, {**ADA, "Sec-Fetch-Site": "cross-site"}),
    "a page of another site, at an open administration": ({}, {"Sec-Fetch-Site": "cross-site"}),
    "a session without its proof": ({"auth": Directory(), "secret_key": KEY}, {"X-CSRF-Token": ""}),
    "a session with a wrong proof": ({"auth": Directory(), "secret_key": KEY}, {"X-CSRF-Token": "x"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
async def test_no_byte_of_a_body_is_read_from_a_request_that_may_not_act(
    app_of: Callable[..., FastAPI], kind: str
) -> None:
    options, given = REFUSED[kind]
    app = app_of(**options)
    if "session" in kind:
        given = {**await session(app, "ada"), **given}
    sent = [(name.lower().encode(), value.encode()) for name, value in given.items()]
    allowed = "/schedules/" if "another scope" in kind else None
    actions = [(method, path) for method, path in operations(app) if method != "GET"]
    for method, path in actions:
        if allowed is not None and allowed in path:
            continue
        upload = Upload(app, method, path, *sent)
        await upload.send()
        assert (upload.status, upload.received) == (403, 0), (method, path)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/tasks/bulk-retry"), ("PATCH", "/tasks/queues/mail"), ("DELETE", "/tasks/history")]
)
async def test_the_body_of_someone_who_may_act_is_bounded(
    app_of: Callable[..., FastAPI], method: str, path: str
) -> None:
    app, basic = app_of(auth=Directory()), (b"authorization", b"Basic " + _BASIC["ada"])
    in_pieces = Upload(app, method, path, basic)
    assert "256 KiB" in (await in_pieces.send())["detail"]
    assert (in_pieces.status, in_pieces.received) == (413, 1)
    declared = Upload(app, method, path, basic, (b"content-length", b"100000000"))
    assert "256 KiB" in (await declared.send())["detail"]
    assert (declared.status, declared.received) == (413, 0)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/tasks/bulk-retry"),
        ("POST", "/tasks/retry-failed?since=soon"),
        ("POST", "/tasks/retry-failed?status=bad&limit=0"),
        ("POST", "/tasks/x/retry?rerun=perhaps"),
        ("GET", "/tasks?since=soon"),
        ("GET", "/tasks/events?after=x"),
    ],
)
async def test_who_asks_is_decided_before_what_they_ask(app_of: Callable[..., FastAPI], method: str, path: str) -> None:
    upload = Upload(app_of(auth=USER), method, path)
    await upload.send()
    assert upload.status == 401


async def test_a_password_is_checked_once_for_each_request(app_of: Callable[..., FastAPI]) -> None:
    asked: list[str] = []

    class Counting:
        def authenticate(self, username: str, password: str) -> str:
            asked.append(username)
            return "operator"

    upload = Upload(app_of(auth=Counting()), "GET", "/tasks/session", (b"authorization", b"Basic " + _BASIC["ada"]))
    assert (await upload.send())["actor"] == "ada"
    assert asked == ["ada"]


SENT = 100 * len(MEGABYTE)


def push(port: int, method: str, path: str, *, chunked: bool) -> bytes:
    """Send a request with a body of 100 MB, as far as the server takes it; returns the status line of the answer."""
    head = f"{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n".encode()
    # The chunked body is one chunk.
    length, size = (b"Transfer-Encoding: chunked", b"%x\r\n" % SENT) if chunked else (b"Content-Length: %d" % SENT, b"")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head + length + b"\r\n\r\n" + size + MEGABYTE)
        answer = connection.makefile("rb").readline()
        with contextlib.suppress(ConnectionError):
            for _ in range(99):
                connection.sendall(MEGABYTE)
    return answer


def test_the_bodies_of_strangers_take_no_memory_of_the_server(tmp_path: Path) -> None:
    with AppProcess("tests.apps.guarded_app:app", tmp_path) as server:

        def peak() -> int:
            """The most memory that the process has ever had, in bytes (proc(5))."""
            [line] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
            return int(line) * 1_024

        urllib.request.urlopen(f"{server.url}/tasks/livez").close()
        before = peak()
        for method, path, chunked, status in (
            ("POST", "/tasks/bulk-retry", False, b"401"),
            ("PATCH", "/tasks/queues/default", False, b"401"),
            ("DELETE", "/tasks/history", False, b"401"),
            ("POST", "/tasks/bulk-cancel", True, b"401"),
            ("POST", "/tasks/login", True, b"413"),
        ):
            assert push(server.port, method, path, chunked=chunked).split()[1] == status, (method, path)
        assert peak() - before < 8 * len(MEGABYTE)
