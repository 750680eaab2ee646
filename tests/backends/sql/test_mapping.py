"""Rows of SQL as records, whatever they hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from taskflow_otel.backends.sql import mapping
from taskflow_otel.testing.backends.samples import full_task
from tests.faults.rows import json_texts, shown
from tests.faults.values import Said, anything, boxed


@given(boxed(st.tuples(anything(), anything(), anything(), anything(), st.one_of(anything(), json_texts))))
def test_any_row_of_a_log_becomes_an_entry_that_can_be_shown(said: Said) -> None:
    shown(full_task(), [mapping.to_log_entry((full_task().task_id, 0, *said.value))])
