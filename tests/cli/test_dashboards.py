"""`taskflow-otel dashboards export` writes the stack, from a checkout and from an installed wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from taskflow_otel.cli.main import main
from tests.dashboards.expressions import ROOT, STACK

STACK_FILES = {
    str(path.relative_to(ROOT))
    for path in [
        *(path for path in STACK.rglob("*") if path.is_file() and path.suffix in {".json", ".yml", ".yaml"}),
        ROOT / "docker-compose.observability.yml",
        ROOT / "docs/runbooks.md",
    ]
}


def written(directory: Path) -> dict[str, bytes]:
    """The content of every file below a directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a wheel of the project is installed."""
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)],
        cwd=ROOT, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    [built] = directory.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(directory / "site")
    return directory / "site"


def test_an_installed_wheel_exports_exactly_the_files_of_the_stack(wheel: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "taskflow_otel.cli.main", "dashboards", "export", "stack"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(wheel)}, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert f"wrote {len(STACK_FILES)} files to stack" in done.stdout
    assert written(tmp_path / "stack") == {name: (ROOT / name).read_bytes() for name in STACK_FILES}


def test_a_checkout_exports_the_same_files(tmp_path: Path) -> None:
    assert main(["dashboards", "export", str(tmp_path / "stack")]) == 0
    assert written(tmp_path / "stack").keys() == STACK_FILES


def test_files_that_are_there_are_kept_unless_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "docker-compose.observability.yml"
    mine.write_text("mine")
    assert main(["dashboards", "export", str(tmp_path)]) == 2
    assert f"{mine} exists already (1 of {len(STACK_FILES)} files do)" in capsys.readouterr().err
    assert written(tmp_path) == {mine.name: b"mine"}

    assert main(["dashboards", "export", str(tmp_path), "--force"]) == 0
    assert written(tmp_path).keys() == STACK_FILES
    assert mine.read_bytes() == (ROOT / mine.name).read_bytes()


def test_alerts_point_to_where_the_runbooks_were_published(tmp_path: Path) -> None:
    url = "https://wiki.example.com/taskflow"
    assert main(["dashboards", "export", str(tmp_path), "--runbooks", url]) == 0
    alerts = (tmp_path / "dashboards/prometheus/taskflow.alerts.yml").read_text()
    assert f"runbook_url: {url}#taskflowinstancedown" in alerts
    assert "runbook_url: docs/" not in alerts


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["dashboards", "export", str(tmp_path / "file" / "stack")]) == 2
    assert capsys.readouterr().err.startswith(f"taskflow-otel: cannot write to {tmp_path / 'file' / 'stack'}: ")
