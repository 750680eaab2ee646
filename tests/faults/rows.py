"""Stored rows with anything in them, and what must hold of whatever is read from one."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from taskflow_otel.model.record import LogEntry
from taskflow_otel.web.answers import task_detail
from tests.faults.values import texts

json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts(), inner, max_size=3)),
    max_leaves=6,
)


json_texts = st.one_of(json_values.map(json.dumps), st.text(max_size=10))


def shown(record: Any, logs: list[LogEntry]) -> None:
    """What the page of a task says is valid JSON."""
    document = task_detail(record, logs, with_args=True).model_dump(mode="json")
    json.dumps(document, allow_nan=False, ensure_ascii=False).encode("utf-8")
