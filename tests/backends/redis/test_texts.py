"""JSON for Redis, and the time in an id."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from taskflow_otel.backends.redis.texts import made_at, plain_json, to_json, to_micros
from tests.faults.values import texts


class _Text(str):
    """What a user's own kind of text is."""


_numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_plain = st.recursive(
    st.none() | st.booleans() | _numbers | texts() | texts().map(_Text),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts(), inner, max_size=4),
    max_leaves=8,
)


@given(_plain)
def test_the_faster_encoder_writes_what_the_strict_one_writes(value: object) -> None:
    assert json.loads(plain_json(value)) == json.loads(to_json(value))
    plain_json(value).encode()


def test_an_id_was_made_by_the_end_of_its_millisecond_and_any_other_text_long_ago() -> None:
    moment = datetime(2026, 1, 31, 12, 30, 15, 123_000, tzinfo=UTC)
    task_id = uuid.UUID(int=(to_micros(moment) // 1_000) << 80 | 7 << 76 | 2 << 62)
    assert made_at(str(task_id)) == to_micros(moment) + 999
    assert made_at("not an id") == 0
