from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow_otel.model.argument_filter import MOST_CONDITIONS, Condition, read_argument_filter
from taskflow_otel.model.payload import Codec


class Colour(Enum):
    RED = "red"


def call(order: Any, note: Any = None, /, *rest: Any, colour: Colour = Colour.RED, **more: Any) -> None:
    """A task."""


CODEC = Codec(call)
MORE: dict[str, Any] = {
    "customer": {"name": "Ada L", "e.mail": "ada@example.com", "tags": ["vip", 7], "lines": [{"sku": 5}, {"sku": 6}]},
    "when": datetime(2026, 1, 31, tzinfo=UTC),
    "price": Decimal("2.50"),
    "ok": True,
    "ratio": 0.5,
    "huge": 2**70,
    "strange": math.nan,
    "deep": [[1, [2]]],
    "colon": "a:b=c",
}
PAYLOAD = CODEC.encode((782, None, UUID(int=5), "third"), {"colour": Colour.RED, **MORE})


@pytest.mark.parametrize(
    "text",
    [
        "order:782", "order=782", "0:782", "note:null", "note:None", "2:00000000-0000-0000-0000-000000000005",
        "3:third", "*:third", "*.1:third", "colour:RED", 'customer.name:"Ada L"', "customer.e.mail:ada@example.com",
        "customer.tags:vip", "customer.tags.1:7", "customer.tags:7", "customer.lines.sku:6", "customer.lines.0.sku:5",
        'when:"2026-01-31 00:00:00+00:00"', "price:2.50", "ok:true", "ok:True", "ratio:0.5", f"huge:{2**70}",
        "strange:NaN", "782", "vip", "6", '"Ada L"', '"a:b=c"', "colon:a:b=c", "deep.0.1:2", "2",
        "order:782 ok:true  vip",
    ],
)  # fmt: skip
def test_what_is_shown_is_found(text: str) -> None:
    assert read_argument_filter(text).matches(PAYLOAD) is True


@pytest.mark.parametrize(
    "text",
    [
        "order:78", "order:7820", "order:0782", "Order:782", "ok:1", "ok:false", "note:", "ratio:.5", "1:782",
        "4:third", "99999999999999:782", "²:782", "customer:Ada", "customer.name:Ada", "customer.lines:5",
        "customer.lines.1.sku:5", "order.x:782", "absent:null", "name:782 order:782", "order:782 ok:false",
        "third.order:782", "deep:2",
    ],
)  # fmt: skip
def test_what_is_not_shown_is_not_found(text: str) -> None:
    if text.endswith(":"):
        text += '""'
    assert read_argument_filter(text).matches(PAYLOAD) is False


def test_arguments_that_cannot_be_read_neither_match_nor_differ() -> None:
    wanted = read_argument_filter("order:782")
    deep = "[" * 100_000
    for payload in (
        None, "", "fernet1:0123456789abcdef:gAAAA", "{", '{"v":9,"args":[],"kwargs":{}}', "[1]", "null",
        '{"v":1,"args":[],"kwargs":[]}', '{"v":1,"names":["order"],"args":[{"$":"float"}],"kwargs":{}}',
        '{"v":1,"args":[],"kwargs":{"order":' + deep,
    ):  # fmt: skip
        assert wanted.matches(payload) is None, payload
    # Stored before positions had names.
    old = '{"v":1,"args":[782],"kwargs":{}}'
    assert [read_argument_filter(text).matches(old) for text in ("0:782", "782", "order:782")] == [True, True, False]
    # An integer that Python does not write is no reason to fail.
    assert (
        read_argument_filter("order:1").matches('{"v":1,"args":[],"kwargs":{"order":1' + "0" * 4_400 + "}}") is not True
    )


@pytest.mark.parametrize("text", ["", "  ", "order:", '"open', 'order:"open', "a..b:1", ".a:1", ":5", 'x:"a"b'])
def test_what_means_nothing_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"argument"):
        read_argument_filter(text)


def test_conditions_are_bounded() -> None:
    many = " ".join(f"a{number}:1" for number in range(MOST_CONDITIONS))
    assert len(read_argument_filter(many).conditions) == MOST_CONDITIONS
    with pytest.raises(ValueError, match=f"1 to {MOST_CONDITIONS} arguments, not {MOST_CONDITIONS + 1}"):
        read_argument_filter(f"{many} more:1")


@given(
    st.text("abc._é0", min_size=1, max_size=8).filter(lambda name: "" not in name.split(".")),
    st.text(st.characters(exclude_characters='"'), max_size=20),
)
def test_any_text_is_found_by_its_name_and_value(name: str, value: str) -> None:
    wanted = read_argument_filter(f'{name}:"{value}"')
    assert wanted.conditions == (Condition(tuple(name.split(".")), value),)
    assert wanted.matches(json.dumps({"v": 1, "args": [], "kwargs": {name: value}})) is True
    assert wanted.matches(json.dumps({"v": 1, "args": [], "kwargs": {name: f"{value}x"}})) is False
