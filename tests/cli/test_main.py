"""The command `taskflow-otel` as a whole: its usage, its exit statuses, its completion, and the page about it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from taskflow_otel.cli.main import COMPLETE, commands, main
from taskflow_otel.version import __version__
from tests.cli.page import PAGE, written
from tests.dashboards.expressions import ROOT


def test_the_package_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "taskflow_otel", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"taskflow-otel {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["dashboards"], ["dashbords"], ["dashboards", "export"]])
def test_a_command_that_is_not_complete_ends_with_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "Usage: taskflow-otel" in capsys.readouterr().err


def test_an_interruption_has_a_status_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(commands.commands, "stop", click.Command("stop", callback=interrupt))
    assert main(["stop"]) == 130


def test_every_command_and_option_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    for name, command in commands.commands.items():
        assert command.get_short_help_str(limit=80).endswith("."), name
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, f"{name} {parameter.name}"
        assert main([name, "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"Usage: taskflow-otel {name} ")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("taskflow-otel que", "queues"),
        ("taskflow-otel ls --status succ", "success"),
        ("taskflow-otel ls --li", "--limit"),
    ],
)
def test_a_shell_completes_commands_options_and_words(words: str, found: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "taskflow_otel"], capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, COMPLETE: "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))},
    )  # fmt: skip
    assert [line.partition(",")[2] for line in done.stdout.splitlines()] == [found]


# What only the work of a command needs: not help, not completion. And what these load instead.
HEAVY = {
    "aiosqlite", "fastapi", "httpx", "msgspec", "opentelemetry", "prometheus_client", "pydantic", "redis", "rich",
    "sqlalchemy", "starlette", "uvicorn",
}  # fmt: skip
LIGHT = {"cli", "errors", "model", "runtime", "version"}


def test_help_and_completion_load_no_library_and_few_modules() -> None:
    program = """
import os, sys
from click.shell_completion import shell_complete
from taskflow_otel.cli.main import COMPLETE, NAME, commands, main
for name in commands.commands:
    main([name, "--help"])
main(["--help"])
os.environ |= {"COMP_WORDS": "taskflow-otel ls --status succ", "COMP_CWORD": "3"}
shell_complete(commands, {}, NAME, COMPLETE, "bash_complete")
print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stderr.split()
    assert {name.partition(".")[0] for name in loaded} & HEAVY == set()
    ours = {name for name in loaded if name.startswith("taskflow_otel.")}
    assert {name.split(".")[1] for name in ours} == LIGHT
    assert len(ours) < 30


def test_the_script_of_a_shell_asks_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("zsh", "fish"):
        assert main(["completion", shell]) == 0
        assert f"{COMPLETE}={shell}_complete" in capsys.readouterr().out


def test_the_page_about_the_command_is_up_to_date() -> None:
    assert PAGE.read_text() == written(PAGE.read_text())


def test_the_page_names_no_option_that_no_command_has() -> None:
    groups = [one for one in commands.commands.values() if isinstance(one, click.Group)]
    every = [*commands.commands.values(), *(one for group in groups for one in group.commands.values())]
    options = {option for command in every for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE.read_text())) <= options


def test_the_wheel_names_the_command() -> None:
    assert 'taskflow-otel = "taskflow_otel.cli.main:main"' in Path(ROOT / "pyproject.toml").read_text()
