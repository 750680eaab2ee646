"""The listening socket by which the workers of one server know each other."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

from taskflow_otel.runtime.listening import serving_address

PREPARED = "import socket; from taskflow_otel.runtime.listening import serving_address; "


def in_process(work: str) -> str:
    """What a fresh process prints, whose only sockets it makes itself."""
    return subprocess.run([sys.executable, "-c", PREPARED + work], capture_output=True, text=True, check=True).stdout


def test_a_process_without_a_listening_socket_has_no_address() -> None:
    work = "pair = socket.socketpair(); bound = socket.socket(); bound.bind(('127.0.0.1', 0)); print(serving_address())"
    assert in_process(work) == "\n"


def test_the_first_listening_internet_socket_is_the_address(tmp_path: Path) -> None:
    work = (
        f"local = socket.socket(socket.AF_UNIX); local.bind({str(tmp_path / 's')!r}); local.listen(); "
        "one, two = socket.create_server(('127.0.0.1', 0)), socket.create_server(('127.0.0.1', 0)); "
        "print(serving_address() == '127.0.0.1:%d' % one.getsockname()[1])"
    )
    assert in_process(work) == "True\n"


def test_a_unix_socket_is_an_address_too(tmp_path: Path) -> None:
    path = tmp_path / "s"
    work = f"one = socket.socket(socket.AF_UNIX); one.bind({str(path)!r}); one.listen(); print(serving_address())"
    assert in_process(work) == f"{path}\n"


def test_looking_for_sockets_keeps_the_locks_of_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "db"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("CREATE TABLE t (a)")
    holder.execute("BEGIN EXCLUSIVE")
    serving_address()
    other = f"import sqlite3; sqlite3.connect({str(path)!r}, timeout=0).execute('BEGIN IMMEDIATE')"
    tried = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=False)
    holder.close()
    assert "database is locked" in tried.stderr
