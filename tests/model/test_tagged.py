"""Standard values as JSON that says what they were."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from pydantic import BaseModel

from taskflow_otel.model.equality import equal
from taskflow_otel.model.payload import Codec
from tests.model.things import (
    BERLIN,
    round_trip,
    untyped,
    values,
)

TWICE = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)


STANDARD: list[Any] = [
    None, True, False, 0, 1, -1, 2**63, 10**500, -(10**5000), 0.0, -0.0, 1e308, 5e-324, 0.1, math.inf, -math.inf,
    math.nan, "", "5", "a\x00b", "\ud800", "Ünïcødé 🙂", b"", b"\xff\x00", bytearray(b"\xfe"), 3 - 0j,
    complex(-0.0, math.inf), UUID(int=7), Decimal("1.00"), Decimal("-0"), Decimal("1E+500"), Decimal("NaN"),
    Decimal("sNaN"), Decimal("-Infinity"),
    date(1, 1, 1), date.max, time(23, 59, 59, 999999), time(1, tzinfo=UTC), time(1, tzinfo=BERLIN), time(1, fold=1),
    datetime.min, datetime.max, datetime(2026, 1, 1, 1, 2, 3, 4), datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-5, minutes=-30, seconds=-1))), TWICE, TWICE.replace(fold=1),
    datetime(2026, 3, 29, 2, 30, tzinfo=BERLIN), datetime(2026, 1, 1, fold=1), timedelta.max, timedelta.min,
    timedelta(microseconds=-1), [], {}, (), set(), frozenset(), [1, [2, (3, {4})]], {"a": {"b": [None]}},
    {1: "a", 2: "b"},
    {(1, 2): {UUID(int=1)}, None: b"x"}, {"$": "uuid", "v": "no"}, [{"$": "typed", "v": {"$": 1}}],
    {"v": 1, "args": []},
    {frozenset({1, (2, 3)}), "x"}, (1, 1.0, True, "1"),
]  # fmt: skip


@pytest.mark.parametrize("value", STANDARD, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("annotation", [Any, object, int, str, UUID | None, list[str]], ids=str)
def test_a_standard_value_comes_back_identical_whatever_the_annotation_says(annotation: Any, value: Any) -> None:
    assert equal(value, round_trip(annotation, value), strict=True)


@pytest.mark.parametrize("value", STANDARD, ids=lambda value: type(value).__name__)
def test_a_standard_value_needs_no_annotation(value: Any) -> None:
    codec = Codec(untyped)
    args, kwargs = codec.decode(codec.encode((value, value), {"option": value}))
    assert equal((value, value), args, strict=True)
    assert equal({"option": value}, kwargs, strict=True)


def test_a_foreign_time_zone_comes_back_as_the_same_instant_and_offset() -> None:
    class Whenever(BaseModel):
        at: datetime

    value = Whenever.model_validate_json('{"at": "2026-01-01T12:00:00+02:00"}')
    assert type(value.at.tzinfo) is not timezone
    back = round_trip(Whenever, value)
    assert back == value
    assert back.at.utcoffset() == timedelta(hours=2)


def test_a_name_that_looks_like_a_tag_is_only_a_name() -> None:
    codec = Codec(untyped)
    kwargs = {"$": "uuid", "v": "x"}
    assert codec.decode(codec.encode((1,), kwargs)) == ((1,), kwargs)


@given(value=values)
def test_every_nesting_of_standard_values_comes_back_identical(value: Any) -> None:
    codec = Codec(untyped)
    args, kwargs = codec.decode(codec.encode((value,), {"option": value}))
    assert equal((value,), args, strict=True)
    assert equal({"option": value}, kwargs, strict=True)
