"""Whatever user code says becomes finite, valid, bounded JSON data, and nothing about it raises."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow_otel.model import enqueue, options, task_options
from taskflow_otel.model.plain import (
    MAX_DEPTH,
    MAX_EXTRA_TEXT,
    MAX_ITEMS,
    MAX_NAME,
    MAX_PROGRESS_TEXT,
    MAX_TAG_TEXT,
    MAX_TAGS,
    class_name,
    distinct_text,
    is_storable,
    kept_extra,
    kept_tags,
    plain_extra,
    plain_number,
    plain_tags,
    plain_text,
    plain_value,
    repr_of,
    text_of,
)
from taskflow_otel.model.record import MAX_LOG_ENTRIES, MAX_LOG_TEXT, MAX_TEXT
from tests.faults.values import LyingDict, Said, anything, boxed, texts


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Shouting(str):
    """A text whose own methods lie."""

    def __len__(self) -> int:
        raise RuntimeError

    def __str__(self) -> str:
        raise SystemExit

    def isascii(self) -> bool:
        raise RuntimeError


class Lying(dict[str, int]):
    """A mapping whose own methods raise."""

    def items(self) -> Any:
        raise RuntimeError

    def __len__(self) -> int:
        raise RuntimeError


class Endless(Mapping[str, int]):
    """A mapping that never comes to its end."""

    def __getitem__(self, key: str) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        number = 0
        while True:
            yield str(number)
            number += 1

    def __len__(self) -> int:
        return 3


class Exact:
    """A number of another package."""

    def __index__(self) -> int:
        return 7


class Half:
    """A number of another package."""

    def __float__(self) -> float:
        return 0.5


def nested(levels: int) -> list[Any]:
    """A list in a list in a list."""
    outer: list[Any] = []
    for _ in range(levels):
        outer = [outer]
    return outer


def depth(value: Any) -> int:
    """How many lists and mappings are in one another."""
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def items(value: Any) -> int:
    """How many values there are in all the lists and mappings."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return sum(1 + items(item) for item in inner)


def characters(value: Any) -> int:
    """How many characters there are in all the texts."""
    if isinstance(value, dict):
        return sum(len(key) + characters(item) for key, item in value.items())
    if isinstance(value, list):
        return sum(map(characters, value))
    return len(value) if isinstance(value, str) else 0


def valid(value: Any) -> str:
    """The value as strict JSON in UTF-8, without NUL."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    assert "\\u0000" not in text
    text.encode("utf-8")
    return text


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (1, 1), (-1.5, -1.5), (True, True), (None, None), ("tea ☕", "tea ☕"),
        (Colour.RED, "red"), (Level.HIGH, 3), (Decimal("1.50"), "1.50"), (Exact(), 7),
        (date(2026, 1, 2), "2026-01-02"), (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02 00:00:00+00:00"),
        (b"ab", "b'ab'"), ("a\0b", "a\\x00b"), ("\ud800", "\\ud800"),
        (math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity"),
        (2**63 - 1, 2**63 - 1), (2**63, "9223372036854775808"), (10**30, "1" + "0" * 30),
        ((1, 2), [1, 2]), ({3}, [3]), ([1, [2, {"a": {4}}]], [1, [2, {"a": [4]}]]),
        ({("a", "b"): 1}, {"('a', 'b')": 1}), ({b"k": 1}, {"b'k'": 1}), ({date(2026, 1, 2): 1}, {"2026-01-02": 1}),
        ({1: "a", "1": "b"}, {"1": "a", "1 (2)": "b"}), (OrderedDict(a=1), {"a": 1}),
    ],
    ids=lambda value: class_name(type(value)),
)  # fmt: skip
def test_a_value_becomes_json_data_that_people_can_read(value: Any, plain: Any) -> None:
    made, _ = plain_extra({"value": value})
    assert made == {"value": plain}
    assert type(made["value"]) is type(plain)


def test_methods_of_a_subclass_are_not_asked() -> None:
    made, _ = plain_extra({"text": Shouting("hm"), "mapping": Lying(a=1), "key": {Shouting("hm"): 1}})
    assert made == {"text": "hm", "mapping": {"a": 1}, "key": {"hm": 1}}
    assert text_of(Shouting("hm")) == "hm"
    assert type(made["text"]) is str
    assert type(made["mapping"]) is dict


def test_an_integer_too_long_for_decimals_becomes_hexadecimal_text() -> None:
    made = plain_value(10**5000)
    assert isinstance(made, str)
    assert int(made, 16) == 10**5000
    assert plain_value(10**1_000_000) == f"<an integer of {(10**1_000_000).bit_length()} bits>"


def test_a_list_that_holds_itself_and_three_thousand_levels_end_at_a_mark() -> None:
    loop: list[Any] = []
    loop += [loop, loop]
    for value in (loop, nested(3_000)):
        made, _ = plain_extra({"value": value})
        assert depth(made["value"]) == MAX_DEPTH - 1
        assert "[deeper levels cut]" in valid(made)


def test_what_is_cut_says_how_much_is_missing() -> None:
    assert plain_text("x" * 12, 10) == "x" * 10 + "… [2 characters cut]"
    assert plain_value(list(range(2_000)), items=10) == [*range(10), "… [1990 items cut]"]
    assert plain_value({str(n): n for n in range(5)}, items=2) == {"0": 0, "1": 1, "…": "[3 items cut]"}
    assert len(plain_value(Endless())) == MAX_ITEMS + 1
    many = plain_tags(dict.fromkeys(range(MAX_TAGS + 3), "x" * 5000))
    assert (len(many), many["…"]) == (MAX_TAGS + 1, "[3 tags cut]")
    assert many["0"] == "x" * MAX_TAG_TEXT + f"… [{5_000 - MAX_TAG_TEXT} characters cut]"


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3), (True, 1), (2.5, 2.5), (Exact(), 7), (Half(), 0.5), (Decimal("1.5"), 1.5), (Level.HIGH, 3),
        (10**30, 1e30), (10**5000, None), (math.nan, None), (math.inf, None), ("3", None), (object(), None), (1j, None),
    ],
    ids=lambda value: class_name(type(value)),
)  # fmt: skip
def test_a_number_is_finite_and_built_in_or_none(value: object, number: float | None) -> None:
    assert plain_number(value) == number
    assert type(plain_number(value)) in (int, float, type(None))


def test_plain_values_pass_as_they_are() -> None:
    extra = {"a": "text", "n": 1, "x": 0.5, "ok": True, "nothing": None}
    made, size = plain_extra(extra)
    assert made == extra
    assert made is not extra
    assert size >= characters(extra)


@given(said=boxed(st.dictionaries(texts(), anything(), max_size=4)))
def test_any_extra_values_become_bounded_json(said: Said) -> None:
    made, size = plain_extra(said.value)
    valid(made)
    assert depth(made) <= MAX_DEPTH
    # A mark may follow what was cut, on each level; an escape is longer than what it stands for.
    assert items(made) <= 2 * MAX_ITEMS
    assert characters(made) <= 6 * MAX_EXTRA_TEXT + 64 * items(made)
    assert size <= MAX_EXTRA_TEXT


@given(said=boxed(anything()))
def test_any_object_has_a_text_a_representation_and_a_class_name(said: Said) -> None:
    value = said.value
    for text, limit in ((text_of(value, 100), 100), (repr_of(value), 80), (class_name(type(value)), MAX_NAME)):
        valid(text)
        assert len(text) <= 6 * limit + 2 * MAX_NAME
    number = plain_number(value)
    assert number is None or math.isfinite(number)


@given(said=boxed(st.lists(st.tuples(anything(hashable=True), anything()), max_size=4)))
def test_any_tags_become_texts_and_none_is_lost(said: Said) -> None:
    tags = LyingDict()
    for name, value in said.value:
        with contextlib.suppress(RuntimeError):  # from its own `__eq__`
            tags[name] = value
    made = plain_tags(dict.copy(tags))
    valid(made)
    assert len(made) == dict.__len__(tags)
    assert all(type(name) is str and type(value) is str for name, value in made.items())


@given(one=texts(), other=texts())
def test_two_keys_stay_two_whatever_they_are_made_of(one: str, other: str) -> None:
    assert (distinct_text(one) == distinct_text(other)) == (one == other)
    assert is_storable(distinct_text(one))
    assert distinct_text(distinct_text(one)) == distinct_text(one)


def test_the_table_of_the_guarantees_states_the_caps() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guarantees.md").read_text()
    _, table, _ = page.split("<!-- caps -->")
    rows = re.findall(r"^\| ([^|]+) \| ([\d,]+) \|", table, re.MULTILINE)
    assert {what: int(number.replace(",", "")) for what, number in rows} == {
        "log entries": MAX_LOG_ENTRIES,
        "characters of all its log entries": MAX_LOG_TEXT,
        "characters of a log message": MAX_TEXT,
        "characters of an error": MAX_TEXT,
        "characters of a stack trace": MAX_TEXT,
        "characters of the extra values of one log entry": MAX_EXTRA_TEXT,
        "items in the extra values of one log entry": MAX_ITEMS,
        "levels of lists and mappings": MAX_DEPTH,
        "characters of the name of a tag, an extra value or a class": MAX_NAME,
        "tags": MAX_TAGS,
        "characters of the value of a tag": MAX_TAG_TEXT,
        "characters of a progress message": MAX_PROGRESS_TEXT,
        "characters of an idempotency key": enqueue._MAX_KEY,
        "characters of the name of a task or a queue": task_options._MAX_NAME,
    }
    assert options._MAX_NAME == task_options._MAX_NAME


@given(boxed(st.dictionaries(anything(hashable=True), anything(), max_size=80)))
def test_what_was_made_plain_once_is_read_as_it_is(said: Said) -> None:
    tags = plain_tags(said.value)
    assert kept_tags(tags) == tags
    extra, _ = plain_extra({str(number): value for number, value in enumerate(said.value.values())})
    assert kept_extra(json.loads(json.dumps(extra))) == extra


@pytest.mark.parametrize(
    "tags", [{"a": 1}, {"a": "\0"}, {"\ud800": "b"}, {"a": "x" * 9_999}, {str(n): "" for n in range(99)}]
)
def test_tags_that_an_earlier_version_has_stored_are_made_plain_when_they_are_read(tags: dict[Any, Any]) -> None:
    assert kept_tags(tags) == plain_tags(tags) != tags


@given(texts(), st.integers(0, 50))
def test_a_text_is_cut_to_its_limit_with_its_escapes(text: str, limit: int) -> None:
    kept, mark, _ = plain_text(text * 3, limit).partition("… [")
    assert len(kept) <= limit or not mark
