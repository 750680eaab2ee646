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
GIVEN = [
    f"…: {re.sub(r'[0-9.]+', '…', Limits.of_lease(1.0, 2.0).too_long)}",
    "the Redis server may lose tasks: …",
    str(StaleTokenError("…")),
    str(StaleTokenError("…", deleted=True)),
    placed(UNKNOWN),
    placed(SEALED),
]
"""The texts of calls that get all of it from another place."""
CALLS = 5
"""How many calls these are: those of a backend's limits, of Redis, of an attempt, of a takeover (with two texts), and
one of the engine that logs any error of a task in the background, with its traceback."""


def test_each_error_is_on_the_page_by_its_name_and_its_text() -> None:
    entries = dict(re.findall(r"^\*\*`(\w+)`\*\*(?:: `+(.+?)`+)?$", ERRORS, re.MULTILINE))
    found = {message.where: message.text for message in errors() if message.where != "TaskflowError"}
    assert entries == found


def test_each_logged_warning_is_on_the_page_by_its_text_and_no_other_text_is() -> None:
    texts = [message.text for message in logged()]
    own = [text for text in texts if text not in {"…", "…: …"}]
    assert len(texts) - len(own) == CALLS, "a new call without a text of its own: add the texts to GIVEN"
    rows = re.findall(r"^\| (`.+?`) \| [^|]+ \|$", LOGS, re.MULTILINE)
    assert {text for row in rows for text in re.findall(r"`([^`]+)`", row)} == {*own, *GIVEN}
