"""The page about troubleshooting has every error and every warning of the package by its text, and no others."""

from __future__ import annotations

import re
from pathlib import Path

from taskflow_otel.backends.limits import Limits
from taskflow_otel.engine.fleet.takeover import SEALED, UNKNOWN
from taskflow_otel.errors import StaleTokenError
from tests.messages import errors, logged, placed

PAGE = (Path(__file__).parents[1] / "docs" / "troubleshooting.md").read_text("utf-8")
ERRORS, LOGS = PAGE.split("\n## Warnings and errors in the log\n")
GIVEN = {
    "backends/limits.py": [f"…: {re.sub(r'[0-9.]+', '…', Limits.of_lease(1.0, 2.0).too_long)}"],
    "backends/redis/backend.py": ["the Redis server may lose tasks: …"],
    "engine/attempt.py": [str(StaleTokenError("…"))],
    "engine/engine.py": [],  # any error of a task in the background, with its traceback
    "engine/fleet/takeover.py": [placed(UNKNOWN), placed(SEALED)],
}
"""Where another place gives the whole text: the texts that it gives."""


def test_each_error_is_on_the_page_by_its_name_and_its_text() -> None:
    entries = dict(re.findall(r"^\*\*`(\w+)`\*\*(?:: `+(.+?)`+)?$", ERRORS, re.MULTILINE))
    found = {message.where: message.text for message in errors() if message.where != "TaskflowError"}
    assert entries == found


def test_each_logged_warning_is_on_the_page_by_its_text_and_no_other_text_is() -> None:
    texts: set[str] = set()
    for message in logged():
        texts.update(GIVEN[message.where] if message.text in {"…", "…: …"} else [message.text])
    rows = re.findall(r"^\| (`.+?`) \| [^|]+ \|$", LOGS, re.MULTILINE)
    assert {text for row in rows for text in re.findall(r"`([^`]+)`", row)} == texts
