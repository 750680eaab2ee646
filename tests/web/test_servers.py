"""What is known of a server: whether it stops, and how to cut a client off."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import Any

import pytest

from taskflow_otel.web.servers import ServerWatch
from tests.waiting import eventually
from tests.web.conftest import serve


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_where_no_server_is_known_a_signal_that_usually_stops_is_taken_for_the_stop(
    number: signal.Signals,
) -> None:
    handled: list[int] = []
    previous = signal.signal(number, lambda number, frame: handled.append(number))
    try:
        with contextlib.closing(ServerWatch()) as watch:
            assert not watch.stopping
            os.kill(os.getpid(), number)
            await eventually(lambda: watch.stopping, "the signal")
        assert handled == [number]
        # It stopped nothing: a stream that is opened now stays.
        with contextlib.closing(ServerWatch()) as watch:
            assert not watch.stopping
    finally:
        signal.signal(number, previous)


async def test_a_server_that_is_known_says_itself_that_it_stops() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    async with serve(None) as served:
        inside = signal.getsignal(signal.SIGTERM)
        with contextlib.closing(ServerWatch()) as watch:
            assert signal.getsignal(signal.SIGTERM) is inside
            assert not watch.stopping
            served.server.should_exit = True
            assert watch.stopping
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("port", [int, str])
async def test_the_connection_of_a_request_is_found_by_the_addresses_that_any_server_gives(port: type) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as client,
        listening.accept()[0],
        contextlib.closing(ServerWatch()) as watch,
    ):
        scope: dict[str, Any] = {
            "http_version": "1.1",
            "server": (listening.getsockname()[0], port(listening.getsockname()[1])),
            "client": (client.getsockname()[0], port(client.getsockname()[1])),
        }
        cut = watch.cutter_of(scope)
        assert cut is not None
        cut()
        assert client.recv(1) == b""


@pytest.mark.parametrize(
    "change",
    [
        {"http_version": "2"},
        {"client": None},
        {"server": ("/run/app.sock", None)},
        {"server": "/run/app.sock"},
    ],
)
async def test_a_connection_that_is_shared_or_has_no_address_is_not_cut(change: dict[str, Any]) -> None:
    scope = {"http_version": "1.1", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 5000), **change}
    with contextlib.closing(ServerWatch()) as watch:
        assert watch.cutter_of(scope) is None
