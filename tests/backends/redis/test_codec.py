"""Rows of Redis as records, whatever they hold."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from taskflow_otel.backends.redis import codec
from taskflow_otel.model.record import Progress
from taskflow_otel.testing.backends.samples import full_task
from tests.faults.rows import json_texts, json_values, shown
from tests.faults.values import texts

HEAD, DOC = codec.dump_head(full_task()), codec.dump_doc(full_task())


@given(
    status=st.one_of(st.sampled_from(["success", "running"]), texts()),
    token=st.one_of(st.just("1"), texts()),
    places=st.dictionaries(st.integers(0, 18), json_values, max_size=3),
    whole=st.one_of(st.none(), json_texts),
    failures=st.one_of(st.none(), json_texts),
)
def test_any_row_of_redis_becomes_a_record_that_can_be_shown(
    status: str, token: str, places: dict[int, Any], whole: str | None, failures: str | None
) -> None:
    head, doc = json.loads(HEAD), json.loads(DOC)
    for place, value in places.items():
        doc[place] = value
        if place < len(head):
            head[place] = value
    for row in ((json.dumps(head), DOC), (HEAD, json.dumps(doc)), (whole, DOC), (HEAD, whole)):
        shown(codec.load_record(("one", token, status, None, None, *row, failures, full_task().task_id)), [])


@given(json_texts)
def test_any_log_entry_of_redis_can_be_shown(stored: str) -> None:
    shown(full_task(), [codec.load_log(0, stored)])


@given(st.floats(), st.floats())
def test_a_progress_that_is_no_number_is_refused_and_not_replaced(done: float, total: float) -> None:
    record = replace(full_task(), progress=Progress(done, total))
    if math.isfinite(done) and math.isfinite(total):
        assert json.loads(codec.dump_doc(record))[12][:2] == [done, total]
    else:
        with pytest.raises(ValueError, match="not JSON compliant"):
            codec.dump_doc(record)
