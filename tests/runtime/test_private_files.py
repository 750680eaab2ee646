"""Files of this account alone, and who can read those of others."""

from __future__ import annotations

import grp
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow_otel.runtime.private_files import open_private, other_readers, warn_of_readers

GROUP = grp.getgrgid(os.getgid()).gr_name


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everyone may enter; pytest's own ones are private."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o000, 0o600), (0o022, 0o600), (0o077, 0o600), (0o277, 0o400)])
def test_a_new_file_belongs_to_this_account_and_a_stricter_umask_counts(
    place: Path, umask: None, mask: int, mode: int
) -> None:
    os.umask(mask)
    os.close(open_private(place / "new", os.O_WRONLY | os.O_CREAT))
    assert stat.S_IMODE((place / "new").stat().st_mode) == mode


def test_the_permissions_of_a_file_that_exists_stay(place: Path) -> None:
    (place / "old").touch()
    (place / "old").chmod(0o640)
    os.close(open_private(place / "old", os.O_WRONLY | os.O_CREAT))
    assert stat.S_IMODE((place / "old").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("mode", "directory", "who"),
    [
        (0o600, 0o755, None),
        (0o602, 0o755, None),
        (0o640, 0o755, f"the group {GROUP!r}"),
        (0o644, 0o755, "every account of this machine"),
        (0o604, 0o755, "every account of this machine"),
        (0o644, 0o700, None),
        (0o644, 0o750, f"the group {GROUP!r}"),
        (0o604, 0o750, None),
    ],
)
def test_who_can_read_a_file_is_said_with_the_directories_in_mind(
    place: Path, mode: int, directory: int, who: str | None
) -> None:
    folder, file = place / "folder", place / "folder" / "file"
    folder.mkdir()
    file.touch()
    for path, bits in ((file, mode), (folder, directory)):
        os.chown(path, -1, os.getgid())
        path.chmod(bits)
    assert other_readers(file) == who
    folder.chmod(0o700)


def test_a_file_that_is_not_there_has_no_readers(place: Path) -> None:
    assert other_readers(place / "none") is None
    assert other_readers(Path("/dev/null")) is None


def test_a_group_without_a_name_is_a_number(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless(number: int) -> None:
        raise KeyError(number)

    (place / "file").touch()
    os.chown(place / "file", -1, os.getgid())
    (place / "file").chmod(0o640)
    monkeypatch.setattr(grp, "getgrgid", nameless)
    assert other_readers(place / "file") == f"the group {os.getgid()}"


def test_the_warning_names_the_readers_and_the_command(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = [place / "my tasks.db", place / "private", place / "none"]
    for path in files[:2]:
        path.touch()
    files[0].chmod(0o644)
    files[1].chmod(0o600)
    warn_of_readers(logging.getLogger("taskflow_otel"), "the database", files)
    [message] = caplog.messages
    assert message == (
        "the database can be read by every account of this machine. "
        f"To change that: chmod 600 '{place / 'my tasks.db'}'"
    )
