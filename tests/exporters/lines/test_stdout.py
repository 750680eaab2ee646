"""Lines on standard output."""

from __future__ import annotations

import io

import pytest

from taskflow_otel.exporters.lines.stdout import StdoutLogger
from tests.exporters.lines.conftest import one_task, through


async def test_standard_output_gets_the_same_lines(capsys: pytest.CaptureFixture[str]) -> None:
    await through(StdoutLogger(), one_task("sent"))
    assert [line.rpartition(" ")[2] for line in capsys.readouterr().out.splitlines()] == [
        "PENDING",
        "RUNNING",
        "sent",
        "SUCCESS",
    ]


async def test_a_terminal_of_another_encoding_shows_escapes() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    await through(StdoutLogger(stream=stream, log_lifecycle=False), one_task("é🎉"))
    assert raw.getvalue().endswith(b"\\xe9\\U0001f389\n")
