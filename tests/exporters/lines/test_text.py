"""One event as one line: what a task says cannot forge another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taskflow_otel.bus import ObserverBus
from taskflow_otel.exporters.lines import text
from taskflow_otel.exporters.lines.file import FileLogger
from tests.exporters.lines.conftest import one_task, through
from tests.exporters.story import Story


async def test_lines_have_the_promised_form(path: Path) -> None:
    story: list[Story] = []
    await through(FileLogger(path, log_lifecycle=True), lambda bus: story.append(one_task("sent")(bus)))
    head = f"[{story[0].record.task_id}] [send_email] 2026-01-02T03:04"
    assert path.read_text().splitlines() == [
        f"{head}:06 -- PENDING",
        f"{head}:07 -- RUNNING",
        f"{head}:07 sent",
        f"{head}:08 -- SUCCESS",
    ]


async def test_json_lines_hold_everything(path: Path) -> None:
    await through(FileLogger(path, format="json", log_lifecycle=True), one_task("größe 🎉", rows=3))
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [line.get("transition") or line["message"] for line in lines] == [
        "enqueued",
        "started",
        "größe 🎉",
        "succeeded",
    ]
    assert lines[2]["extra"] == {"rows": 3}
    assert lines[3]["duration"] == 1.0
    assert {line["func_name"] for line in lines} == {"send_email"}


HOSTILE = "a\r\n[forged] [task] line\x1b[31m\x00\x85\u2028\u202ereversed \ud800 \ttab"


@pytest.mark.parametrize("format", text.FORMATS)
async def test_a_message_cannot_forge_a_line_or_steer_a_terminal(path: Path, format: text.Format) -> None:
    await through(FileLogger(path, format=format), one_task(HOSTILE))
    content = path.read_text("utf-8")
    assert len(content.splitlines()) == 1
    assert content.removesuffix("\n").isprintable()
    if format == "json":
        assert json.loads(content)["message"] == HOSTILE


async def test_a_name_cannot_forge_a_line(path: Path) -> None:
    await through(FileLogger(path), lambda bus: Story(bus, "evil\nname").log("x"))
    assert "[evil\\nname]" in path.read_text()


async def test_values_that_json_does_not_know_become_text(path: Path) -> None:
    circular: list[Any] = []
    circular.append(circular)

    def tell(bus: ObserverBus) -> None:
        Story(bus).log("path", where=Path("/x"))
        Story(bus).log("circle", circle=circular)

    bus = await through(FileLogger(path, format="json"), tell)
    first, second = [json.loads(line) for line in path.read_text().splitlines()]
    assert first["extra"] == {"where": "/x"}
    assert "[...]" in second["extra"]
    assert bus.errors == {}


async def test_the_level_selects_the_lines_of_transitions_too(path: Path) -> None:
    def story(bus: ObserverBus) -> None:
        told = Story(bus).created().enqueued().started()
        told.log("said")
        told.retried().started().failed()

    await through(FileLogger(path, log_lifecycle=True, min_level="warning"), story)
    assert [line.rpartition(" ")[2] for line in path.read_text().splitlines()] == ["PENDING", "FAILED"]
