"""`taskflow-otel reconcile`: its output, its exit status, and its errors for input that it cannot read."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from taskflow_otel.cli import reconcile as command
from taskflow_otel.cli.main import main
from taskflow_otel.reconcile import pages
from tests.managers import started
from tests.reconcile.conftest import Watched


@pytest.mark.parametrize("name", ["reconcile", "audit"])
def test_the_command_and_its_former_name_print_each_difference_and_exit_with_one(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(run_once(tmp_path / "tasks.db"))
    page = tmp_path / "page"
    page.write_text('taskflow_tasks_finished_total{task="good",queue="default",outcome="success"} 3\n')
    status = main([name, "--backend", str(tmp_path / "tasks.db"), "--metrics", str(page)])
    lines = capsys.readouterr().out.splitlines()
    assert (status, lines[-1]) == (1, f"{len(lines) - 1} differences")
    assert f"{page}: taskflow_tasks_finished_total{{bad, default, failed}}: expected 1, found 0" in lines


async def run_once(path: Path) -> None:
    watched = Watched(path)
    async with started(watched.manager):
        await watched.run()


def test_the_token_of_the_pages_is_read_from_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(run_once(tmp_path / "tasks.db"))
    tokens: list[str | None] = []

    def read(where: str, token: str | None) -> str:
        tokens.append(token)
        return ""

    monkeypatch.setattr(pages, "read_page", read)
    arguments = ["reconcile", "--backend", str(tmp_path / "tasks.db"), "--metrics", "page"]
    monkeypatch.setenv(command.METRICS_VARIABLE, "")
    main(arguments)
    monkeypatch.setenv(command.METRICS_VARIABLE, "of-the-environment")
    main(arguments)
    main([*arguments, "--metrics-token", "of-the-argument"])
    assert tokens == [None, "of-the-environment", "of-the-argument"]
    monkeypatch.setenv(command.METRICS_VARIABLE, "s3cret\r\nX: y")
    with pytest.raises(SystemExit):
        main(arguments)
    assert "s3cret" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--backend", "missing.db"], "there is no database 'missing.db'"),
        (["--backend", "oracle://x"], "must be a postgresql, mysql or redis URL"),
        (["--backend", "x", "--metrics", "y", "--since", "2026-01-01"], "give the page of that moment as --baseline"),
        (["--backend", "x", "--metrics", "missing"], "the metrics page missing cannot be read"),
        (["--backend", "x", "--metrics", "http://127.0.0.1:1/"], "the metrics page http://127.0.0.1:1/ cannot be read"),
        (["--backend", "x", "--export", "missing"], "missing cannot be read as OTLP"),
    ],
)
def test_the_command_says_what_it_cannot_read(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reconcile", *arguments]) == 2
    assert complaint in capsys.readouterr().err
