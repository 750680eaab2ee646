"""Who counts as gone: only a process of which that can be seen from here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from taskflow_otel.engine.fleet.heartbeat import make_instance
from taskflow_otel.model.query import Instance
from taskflow_otel.runtime import identity
from taskflow_otel.runtime.identity import host_identity, process_gone, process_started
from taskflow_otel.testing.clock import FakeClock
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Another process of this host, alive until the test ends it."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        try:
            yield child
        finally:
            child.kill()


def instance_of(pid: int) -> Instance:
    """The instance that a process of this host has registered."""
    return replace(make_instance(FakeClock(), 15.0), pid=pid, process_started=process_started(pid))


def test_a_process_that_was_killed_is_gone_before_and_after_its_parent_has_reaped_it(
    process: subprocess.Popen[bytes],
) -> None:
    instance = instance_of(process.pid)
    assert not process_gone(instance, host_identity())
    process.kill()
    wait_until(lambda: process_gone(instance, host_identity()), "the zombie to be seen as gone")
    process.wait()
    assert process_gone(instance, host_identity())


def test_a_process_whose_id_was_given_to_another_is_gone(process: subprocess.Popen[bytes]) -> None:
    assert process_gone(replace(instance_of(process.pid), process_started="1"), host_identity())


def test_a_living_process_that_proc_hides_is_not_gone(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `hidepid=2`: the status of other users' processes cannot be read."""
    instance = instance_of(process.pid)
    hidden = f"/proc/{process.pid}/"
    read = identity._read
    monkeypatch.setattr(identity, "_read", lambda path: "" if path.startswith(hidden) else read(path))
    assert not process_gone(instance, host_identity())


@pytest.mark.parametrize("unreadable", ["/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"])
def test_where_boot_or_process_namespace_cannot_be_read_nobody_is_gone(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, unreadable: str
) -> None:
    """As in two containers of one host name: the process ids of one mean nothing in the other."""

    def deny(path: Path, *_: object) -> None:
        raise PermissionError(path)

    read_text, readlink = Path.read_text, Path.readlink
    monkeypatch.setattr(Path, "read_text", lambda path: deny(path) if str(path) == unreadable else read_text(path))
    monkeypatch.setattr(Path, "readlink", lambda path: deny(path) if str(path) == unreadable else readlink(path))
    instance = instance_of(process.pid)
    process.kill()
    process.wait()
    assert host_identity() == ""
    assert not process_gone(instance, host_identity())


@pytest.mark.parametrize("part", range(4))
def test_a_process_of_another_machine_boot_or_namespace_is_not_gone(
    process: subprocess.Popen[bytes], part: int
) -> None:
    process.kill()
    process.wait()
    parts = host_identity().split("|")
    assert process_gone(instance_of(process.pid), "|".join(parts))
    parts[part] += "x"
    assert not process_gone(instance_of(process.pid), "|".join(parts))
