"""A connection can be ended from outside."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow_otel.runtime.hang_up import hang_up


@pytest.fixture(params=["127.0.0.1", "::1"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection: the server's and the client's."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server((request.param, 0), family=family))
        client = stack.enter_context(socket.create_connection(listening.getsockname()[:2]))
        yield stack.enter_context(listening.accept()[0]), client


def addresses(one: socket.socket) -> tuple[tuple[str, int], tuple[str, int]]:
    return one.getsockname()[:2], one.getpeername()[:2]


def test_a_connection_is_found_by_its_addresses_and_ended(ends: tuple[socket.socket, socket.socket]) -> None:
    server, client = ends
    assert hang_up(*addresses(server))
    assert client.recv(1) == b""
    with pytest.raises(BrokenPipeError):
        server.send(b"x")


def test_other_connections_are_left_alone(ends: tuple[socket.socket, socket.socket]) -> None:
    server, client = ends
    (host, port), peer = addresses(server)
    before = len(list(Path("/dev/fd").iterdir()))
    assert not hang_up((host, port + 1), peer)
    assert not hang_up((host, port), (peer[0], peer[1] + 1))
    assert not hang_up(peer, peer)
    server.send(b"x")
    assert client.recv(1) == b"x"
    assert len(list(Path("/dev/fd").iterdir())) == before
