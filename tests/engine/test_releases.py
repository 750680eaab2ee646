"""Marks of releases: one for each that is new, with any order of starts and any damage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from taskflow_otel.engine.releases import (
    PREFIX,
    forgotten,
    is_new,
    key_of,
    marks_of,
    outdated,
    ran_key,
    ran_release,
    ran_text,
)

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def stored(*marks: tuple[int, str]) -> dict[str, str]:
    """Marks that different instances made after this many days."""
    return {key_of(AT + timedelta(days=day), f"i{number}"): name for number, (day, name) in enumerate(marks)}


def test_one_mark_stays_of_those_for_the_same_release_and_one_that_comes_back_is_there_again() -> None:
    found = marks_of(stored((2, "b"), (0, "a"), (3, "b"), (9, "a"), (9, "a")) | {f"{PREFIX}damaged": "x", PREFIX: "y"})
    assert [((mark.at - AT).days, mark.release) for mark in found] == [(0, "a"), (2, "b"), (9, "a")]
    assert marks_of({f"{PREFIX}{10**40}:i": "far"}) == []


@pytest.mark.parametrize(
    ("release", "running", "new"),
    [
        ("c", (), True),
        ("b", (), False),  # a restart
        ("a", (), True),  # it was rolled back
        ("a", ("a", "b"), False),  # both are in use
        ("c", (None, "a"), True),
    ],
)
def test_a_release_is_new_if_it_neither_runs_nor_was_the_last(
    release: str, running: tuple[str | None, ...], new: bool
) -> None:
    assert is_new(release, marks_of(stored((0, "a"), (1, "b"))), running) is new


def test_marks_are_forgotten_with_the_figures_but_for_the_newest() -> None:
    known = stored((0, "a"), (1, "b"), (50, "c"))
    assert sorted(known[key] for key in outdated(known, AT + timedelta(days=60))) == ["a", "b"]
    assert [known[key] for key in outdated(known, AT + timedelta(days=35.5))] == ["a"]
    assert len(outdated(known, AT + timedelta(days=900))) == 2


def test_the_release_of_an_instance_is_kept_as_long_as_the_marks() -> None:
    known = {ran_key(name): ran_text(AT + timedelta(days=day), "1:0 β") for name, day in (("old", 0), ("new", 30))} | {
        ran_key("damaged"): "x"
    }
    assert [ran_release(known[ran_key(name)]) for name in ("old", "damaged")] == ["1:0 β", None]
    assert forgotten(known, AT + timedelta(days=40)) == [ran_key("old"), ran_key("damaged")]
