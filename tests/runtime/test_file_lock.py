"""A lock on a file, against other processes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow_otel.runtime import file_lock
from taskflow_otel.runtime.file_lock import check_lockable, lock, unlock

HOLD = (
    "import os, sys\nfrom taskflow_otel.runtime.file_lock import lock\n"
    "lock(os.open(sys.argv[1], os.O_WRONLY))\nprint('locked', flush=True)\nsys.stdin.read()"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    return tmp_path / "file"


@pytest.fixture
def file(path: Path) -> Iterator[int]:
    opened = os.open(path, os.O_WRONLY)
    yield opened
    os.close(opened)


def test_while_another_process_holds_the_lock_one_waits_and_gives_up_with_an_error(
    path: Path, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_lock, "_TRIES", 3)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        check_lockable(file)
        with pytest.raises(TimeoutError, match="another process"):
            lock(file)
        other.communicate("")
    lock(file)


def test_a_forked_child_that_inherits_the_file_does_not_keep_the_lock(path: Path, file: int) -> None:
    lock(file)
    inherited = os.dup(file)  # what a fork does
    unlock(file)
    other = os.open(path, os.O_WRONLY)
    lock(other)
    os.close(other)
    os.close(inherited)


def test_a_file_system_without_locks_is_an_error(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("taskflow_otel.runtime.file_lock.fcntl.flock", none)
    with pytest.raises(OSError, match="No locks"):
        check_lockable(file)
