"""What holds on the platforms on which people develop, as far as Linux can show it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_where_unix_is_missing_the_library_works_sends_no_signal_and_says_what_it_refuses(tmp_path: Path) -> None:
    """The quick start, a takeover by another instance, and log files, without the modules and calls of Unix."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.apps.like_windows", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    process, rotated = ((tmp_path / f"refused-{number}").read_text() for number in range(2))
    assert "executor='process', which Windows cannot run" in process
    assert "Use 'thread' on Windows" in process
    assert "cannot be locked" in rotated
    assert 'FileLogger(mode="watched")' in rotated
    assert (tmp_path / "tasks.log").read_bytes() == b"one\ntwo\n"
