"""Generates the vocabulary of the page: `python -m taskflow_otel.web.vocabulary_script`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from taskflow_otel.model.status import LIVE_STATUSES, TaskStatus
from taskflow_otel.model.vocabulary import OUTCOMES, InstanceState, Reason, Source

SCRIPT = Path(__file__).parent / "static" / "vocabulary.js"


def render() -> str:
    """The whole script."""
    live = (status for status in TaskStatus if status in LIVE_STATUSES)
    parts = (
        "// Generated from taskflow_otel/model/vocabulary.py by `python -m taskflow_otel.web.vocabulary_script`.",
        _constant("The states of a task.", "STATUSES", _list(TaskStatus)),
        _constant("The states in which a task has not ended.", "LIVE", f"new Set({_list(live)})"),
        _constant("What made a task.", "SOURCES", _list(Source)),
        _constant("The state of an instance.", "INSTANCE_STATES", _list(InstanceState)),
        _constant("How an attempt ended, by the transition that ended it.", "OUTCOMES", _object(OUTCOMES.items())),
        _constant("Why a task is in its state.", "REASONS", _object((reason, reason.label) for reason in Reason)),
    )
    return "\n\n".join(parts) + "\n"


def _constant(meaning: str, name: str, value: str) -> str:
    return f"/** {meaning} */\nexport const {name} = {value};"


def _list(words: Iterable[str]) -> str:
    return json.dumps(list(words))


def _object(words: Iterable[tuple[str, str]]) -> str:
    return "{\n" + "".join(f"  {name}: {json.dumps(text)},\n" for name, text in words) + "}"


if __name__ == "__main__":
    SCRIPT.write_text(render(), "utf-8")
