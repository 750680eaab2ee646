"""Stacks as text."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from taskflow_otel.model.stack import MAX_PLACES, Place, lines_of, own_place, place_of


def test_a_place_is_file_line_and_function_with_the_source_line_where_it_can_be_read() -> None:
    place = place_of(sys._getframe())
    assert (Path(place.file), place.function) == (
        Path(__file__),
        "test_a_place_is_file_line_and_function_with_the_source_line_where_it_can_be_read",
    )
    assert place.text() == f"{__file__}:{place.line} in {place.function}: place = place_of(sys._getframe())"
    assert Place("<string>", 1, "f").text() == "<string>:1 in f"


def test_the_own_place_is_the_innermost_one_that_is_not_in_a_library() -> None:
    app, library = Place("/srv/app/mail.py", 3, "send"), Place(asyncio.__file__, 9, "sleep")
    assert own_place([app, library]) == app
    assert own_place([library]) == library
    assert own_place([Place("/srv/app/main.py", 1, "main"), app]) == app


def test_of_a_deep_stack_both_ends_are_kept_and_the_rest_is_counted() -> None:
    places = [Place("<string>", line, "f") for line in range(MAX_PLACES + 5)]
    lines = lines_of(places)
    assert len(lines) == MAX_PLACES + 1
    assert (lines[0], lines[-1]) == ("<string>:0 in f", f"<string>:{MAX_PLACES + 4} in f")
    assert lines[MAX_PLACES // 2] == "(5 lines left out)"
    assert lines_of(places[:MAX_PLACES]) == [place.text() for place in places[:MAX_PLACES]]
