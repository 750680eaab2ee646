"""The options of one task: parted from the arguments, and checked at the call."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.enqueue import (
    ADD_TASK_OPTIONS,
    NO_OPTIONS,
    EnqueueOptions,
    checked_eager,
    checked_key,
    checked_moment,
    checked_tags,
    split_options,
)
from tests.faults.values import texts


def test_options_are_parted_from_the_arguments_of_the_function() -> None:
    options, rest = split_options({"order": 7, "priority": 9, "tags": {"a": 1}, "queue": "mail"})
    assert options == EnqueueOptions(priority=9, tags={"a": 1}, queue="mail")
    assert rest == {"order": 7}


def test_without_options_the_arguments_stay_the_same_object() -> None:
    arguments = {"order": 7}
    options, rest = split_options(arguments)
    assert options is NO_OPTIONS
    assert rest is arguments


def test_every_option_has_a_name_that_no_parameter_may_bear() -> None:
    assert {"idempotency_key", "tags", "eager", "priority", "queue", "delay", "run_at", "session"} == ADD_TASK_OPTIONS


def test_a_moment_of_any_zone_becomes_utc() -> None:
    moment = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    checked = checked_moment("run_at", moment)
    assert (checked, checked.tzinfo) == (moment, UTC)


@pytest.mark.parametrize(
    ("moment", "says"),
    [
        (datetime(2026, 3, 1), "has no time zone"),
        ("2026-03-01", "must be an aware datetime"),
        (None, "must be an aware datetime"),
        (datetime(1969, 12, 31, tzinfo=UTC), "of the years 1970 to 2199"),
        (datetime(2200, 1, 1, tzinfo=UTC), "of the years 1970 to 2199"),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))), "of the years 1970 to 2199"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=5))), "of the years 1970 to 2199"),
    ],
)
def test_a_moment_that_cannot_be_kept_is_refused(moment: object, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        checked_moment("run_at", moment)


@pytest.mark.parametrize(
    ("check", "value", "says"),
    [
        (checked_tags, ["a"], "tags must be a mapping of names to values, not list"),
        (checked_eager, 1, "eager must be True or False, not 1"),
        (checked_eager, "yes", "eager must be True or False"),
        (checked_key, "", "a text of 1 to 255 characters"),
        (checked_key, "x" * 256, "a text of 1 to 255 characters"),
        (checked_key, 7, "a text of 1 to 255 characters, not 7"),
        (checked_key, b"key", "a text of 1 to 255 characters"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(check: Callable[[object], Any], value: object, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        check(value)


def test_what_was_not_said_stays_unsaid() -> None:
    assert (checked_tags(None), checked_eager(None), checked_key(None)) == ({}, None, None)


@given(texts().filter(lambda text: 0 < len(text) <= 255))
def test_any_key_can_be_stored_and_is_the_same_each_time(key: str) -> None:
    checked = checked_key(key)
    assert checked is not None
    checked.encode("utf-8")
    assert "\0" not in checked
    assert checked_key(key) == checked
