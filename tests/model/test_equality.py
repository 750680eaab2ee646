"""Whether a value is what it was, more strictly than `==` says."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel, PrivateAttr

from taskflow_otel.model.equality import equal

BERLIN, PARIS = ZoneInfo("Europe/Berlin"), ZoneInfo("Europe/Paris")
NAN = float("nan")


class Model(BaseModel):
    number: int = 1
    _secret: int = PrivateAttr(default=0)


class Child(Model):
    pass


@dataclass
class Line:
    price: float
    rebuilt: object = field(init=False, compare=False, default_factory=object)


def hidden(value: int) -> Model:
    model = Model()
    model._secret = value
    return model


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        (complex(0.0, 0.0), complex(0.0, -0.0)),
        (Decimal("1.0"), Decimal("1.00")),
        ([1], (1,)),
        ([1], [1.0]),
        ([1], [1, 2]),
        ((NAN,), (1.0,)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 1}, OrderedDict({"a": 1})),
        ({"a": 1}, {"a": True}),
        ({1}, {True}),
        ({1}, frozenset({1})),
        ({1}, {1, 2}),
        ("a", "b"),
        (Line(1), Line(1.0)),
        (Model(), Child()),
        (Model(number=1), Model(number=2)),
        (hidden(1), hidden(2)),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))),
        (datetime(2026, 1, 1), datetime(2026, 1, 2)),
        (time(1), time(2)),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_two_values_of_which_one_cannot_stand_for_the_other_differ(one: Any, other: Any, strict: bool) -> None:
    assert not equal(one, other, strict=strict)
    assert not equal(other, one, strict=strict)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (NAN, float("nan")),
        ([NAN, {"a": (1, {2})}], [float("nan"), {"a": (1, {2})}]),
        (Line(1.0), Line(1.0)),
        (Model(number=1), Model(number=1)),
        (datetime(2026, 1, 1, tzinfo=BERLIN), datetime(2026, 1, 1, tzinfo=BERLIN)),
        (time(1, tzinfo=UTC), time(1, tzinfo=UTC)),
        (None, None),
    ],
)
def test_two_values_that_are_alike_throughout_are_the_same(one: Any, other: Any) -> None:
    assert equal(one, other, strict=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (datetime(2026, 1, 1, tzinfo=BERLIN), datetime(2026, 1, 1, tzinfo=PARIS)),
        (datetime(2026, 1, 1, tzinfo=BERLIN), datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))),
        (Model(), Model(number=1)),
    ],
)
def test_what_equality_does_not_see_counts_only_when_asked_for(one: Any, other: Any) -> None:
    assert equal(one, other, strict=False)
    assert not equal(one, other, strict=True)
