"""What holds on the platforms on which people develop, as far as Linux can show it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(module: str, directory: Path) -> None:
    """Run one of the applications that take away what a platform does not have."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", module, str(directory)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_without_proc_and_other_calls_of_linux_everything_works_processes_too(tmp_path: Path) -> None:
    """The quick start, a takeover by another instance, a task in a process, and log files that rotate, as on macOS."""
    run("tests.apps.like_macos", tmp_path)
    assert (tmp_path / "tasks.log").read_bytes() == b"one\ntwo\n"


def test_where_unix_is_missing_the_library_works_sends_no_signal_and_says_what_it_refuses(tmp_path: Path) -> None:
    """The quick start, a takeover by another instance, and log files, without the modules and calls of Unix."""
    run("tests.apps.like_windows", tmp_path)
    process, rotated = ((tmp_path / f"refused-{number}").read_text() for number in range(2))
    assert "executor='process', which Windows cannot run" in process
    assert "Use 'thread' on Windows" in process
    assert "cannot be locked" in rotated
    assert 'FileLogger(mode="watched")' in rotated
    assert (tmp_path / "tasks.log").read_bytes() == b"one\ntwo\n"
