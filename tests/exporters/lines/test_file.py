from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskflow_otel.bus import ObserverBus
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.exporters.lines.file import MODES, FileLogger, FileMode
from taskflow_otel.exporters.lines.stdout import StdoutLogger
from taskflow_otel.runtime import file_lock, private_files
from tests.exporters.lines.conftest import one_task, through
from tests.exporters.story import Story


async def test_lifecycle_lines_and_low_levels_are_left_out_by_default(path: Path) -> None:
    def tell(bus: ObserverBus) -> None:
        story = Story(bus).created().enqueued().started()
        for level in ("debug", "info", "error"):
            story.log(level, level)

    await through(FileLogger(path), tell)
    assert [line.rpartition(" ")[2] for line in path.read_text().splitlines()] == ["info", "error"]


@pytest.mark.parametrize("mode", MODES)
async def test_the_file_stays_where_it_was_when_the_process_changes_its_directory(
    mode: FileMode, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    logger = FileLogger(path.name, mode=mode)
    elsewhere = path.parent / "elsewhere"
    elsewhere.mkdir()
    await through(logger, one_task("before"))
    monkeypatch.chdir(elsewhere)
    await through(logger, one_task("after"))
    assert [line.rpartition(" ")[2] for line in path.read_text().splitlines()] == ["before", "after"]
    assert not list(elsewhere.iterdir())


async def test_the_file_is_rotated_at_its_size_and_old_ones_are_kept(path: Path) -> None:
    await through(
        FileLogger(path, max_bytes=300, backup_count=2), one_task(*(f"message number {n:04}" for n in range(20)))
    )
    files = sorted(file.name for file in path.parent.iterdir())
    assert files == ["tasks.log", "tasks.log.1", "tasks.log.2"]
    assert all(file.stat().st_size <= 300 for file in path.parent.iterdir())
    kept = "".join((path.parent / name).read_text() for name in ("tasks.log.2", "tasks.log.1", "tasks.log"))
    numbers = [int(line.rpartition(" ")[2]) for line in kept.splitlines()]
    assert numbers == list(range(20 - len(numbers), 20))


async def test_without_backups_the_file_starts_again(path: Path) -> None:
    await through(FileLogger(path, max_bytes=150, backup_count=0), one_task(*(f"number {n}" for n in range(9))))
    assert [file.name for file in path.parent.iterdir()] == ["tasks.log"]
    assert path.read_text().endswith("number 8\n")


async def test_a_line_longer_than_the_limit_is_written_whole(path: Path) -> None:
    await through(FileLogger(path, max_bytes=100), one_task("x" * 500, "y"))
    assert (path.parent / "tasks.log.1").read_text().endswith("x" * 500 + "\n")


@pytest.mark.parametrize("options", [{"max_bytes": 0}, {"mode": "watched", "max_bytes": 10}], ids=["zero", "watched"])
async def test_a_file_that_is_not_to_be_rotated_grows(path: Path, options: dict[str, Any]) -> None:
    await through(FileLogger(path, **options), one_task(*("line" for _ in range(50))))
    assert len(path.read_text().splitlines()) == 50


async def test_watched_mode_follows_a_file_that_was_moved_away(path: Path) -> None:
    bus = ObserverBus(observers=[FileLogger(path, mode="watched")])
    await bus.start()
    story = Story(bus)
    story.log("before")
    await bus.flush(10)
    moved = path.rename(path.with_suffix(".old"))
    story.log("after")
    await bus.flush(10)
    path.unlink()
    path.write_text("someone else's line\n")
    story.log("last")
    await bus.close(10)
    assert moved.read_text().endswith("before\n")
    assert [line.rpartition(" ")[2] for line in path.read_text().splitlines()] == ["line", "last"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: FileLogger(p / "missing" / "x.log"), "Create its directory"),
        (FileLogger, "cannot be written"),
        (lambda p: FileLogger("/proc/taskflow.log"), "cannot be written"),
        (lambda p: FileLogger(p / "x", mode="rolling"), "rotate, watched"),  # type: ignore[arg-type]  # the mistake
        (lambda p: FileLogger(p / "x", format="xml"), "text, json"),  # type: ignore[arg-type]  # the mistake
        (lambda p: FileLogger(p / "x", min_level="loud"), "debug, info"),
        (lambda p: FileLogger(p / "x", max_bytes=-1), "max_bytes"),
        (lambda p: FileLogger(p / "x", backup_count=True), "backup_count"),
        (lambda p: StdoutLogger(format="xml"), "text, json"),  # type: ignore[arg-type]  # the mistake
        (lambda p: StdoutLogger(min_level="loud"), "debug, info"),
    ],
)
def test_a_logger_that_could_not_work_is_refused_when_it_is_made(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make(tmp_path)


async def test_a_full_disk_is_counted_reported_once_and_survived(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full = threading.Event()
    full.set()
    real_write = os.write

    def write(file: int, data: memoryview) -> int:
        if full.is_set():
            if len(data) > 10:
                return int(real_write(file, data[:10]))
            raise OSError(28, "No space left on device")
        return int(real_write(file, data))

    bus = ObserverBus(observers=[FileLogger(path)])
    await bus.start()
    story = Story(bus)
    monkeypatch.setattr("taskflow_otel.exporters.lines.file.os.write", write)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            story.log("lost")
            await bus.flush(10)
    assert bus.errors == {"FileLogger": 3}
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text
    full.clear()
    story.log("kept")
    await bus.close(10)
    assert path.read_text().splitlines()[-1].endswith("] 2026-01-02T03:04:05 kept"), "not glued to a torn line"


async def test_writing_never_happens_on_the_event_loop(path: Path) -> None:
    threads: set[str] = set()

    class Spy(FileLogger):
        def write(self, lines: list[str]) -> None:
            threads.add(threading.current_thread().name)
            super().write(lines)

    before = set(threading.enumerate())
    await through(Spy(path), one_task("x"))
    assert threads
    assert threading.main_thread().name not in threads
    for thread in set(threading.enumerate()) - before:
        await asyncio.to_thread(thread.join, 10)
    assert not [t for t in threading.enumerate() if t.name.startswith("taskflow Spy")]


WRITER = """
import sys
from taskflow_otel import FileLogger
path, name, batches = sys.argv[1], sys.argv[2], int(sys.argv[3])
logger = FileLogger(path, max_bytes=2_000, backup_count=500)
print("ready", flush=True)
sys.stdin.readline()
for batch in range(batches):
    logger.write([f"{name} {batch} {number} {'x' * 30}\\n" for number in range(5)])
    if batch % 7 == 0:
        logger.release()
"""


def test_several_processes_rotate_one_file_and_lose_no_line(path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), f"process{number}", "100"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(3)
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [(writer.communicate(timeout=120), writer.returncode)[1] for writer in writers] == [0, 0, 0]
    files = list(path.parent.iterdir())
    assert len(files) >= 30
    assert all(file.stat().st_size <= 2_000 for file in files)
    # From the oldest file to the newest: the lines of each process, all of them, in their order.
    in_order = sorted(files, key=lambda file: -int(file.suffix[1:]) if file.suffix[1:].isdecimal() else 0)
    lines = [line.split() for file in in_order for line in file.read_text().splitlines()]
    for number in range(3):
        own = [(int(batch), int(line)) for name, batch, line, _ in lines if name == f"process{number}"]
        assert own == [(batch, line) for batch in range(100) for line in range(5)]


async def test_a_line_that_a_full_disk_cut_off_in_another_process_swallows_none(path: Path) -> None:
    path.write_text("a whole line\nhalf a li")
    await through(FileLogger(path), one_task("mine"))
    assert path.read_text().splitlines()[1] == "half a li"
    assert path.read_text().endswith("] 2026-01-02T03:04:07 mine\n")


async def test_a_lock_that_another_process_keeps_costs_the_lines_and_not_the_shutdown(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_lock, "_TRIES", 2)
    logger = FileLogger(path)
    with path.open() as held:
        file_lock.lock(held.fileno())
        bus = await through(logger, one_task("lost"))
    assert bus.errors == {"FileLogger": 1}
    await through(FileLogger(path), one_task("kept"))
    assert [line.rpartition(" ")[2] for line in path.read_text().splitlines()] == ["kept"]


def test_a_file_system_without_locks_is_refused_with_the_way_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("taskflow_otel.runtime.file_lock.fcntl.flock", none)
    with pytest.raises(ConfigurationError, match=r"cannot be locked: No locks available.*mode=\"watched\""):
        FileLogger(path)
    FileLogger(path, mode="watched")


@pytest.mark.parametrize("mask", [0o000, 0o022])
async def test_all_files_belong_to_this_account_alone(path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        await through(FileLogger(path, max_bytes=150), one_task(*(f"number {n}" for n in range(9))))
    finally:
        os.umask(before)
    files = list(path.parent.iterdir())
    assert len(files) > 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


async def test_a_file_that_others_can_read_stays_so_with_a_warning(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who gets through the directories of a test does not matter.
    monkeypatch.setattr(private_files, "_lets_in", lambda directory, group: True)
    rotated = path.with_name("tasks.log.1")
    for file in (path, rotated):
        file.touch()
        file.chmod(0o640)
    logger = FileLogger(path, max_bytes=150)
    [message] = caplog.messages
    assert f"the log file '{path}' can be read by the group" in message
    assert message.endswith(f"chmod 600 {path} {rotated}")
    await through(logger, one_task(*(f"number {n}" for n in range(9))))
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o640}
