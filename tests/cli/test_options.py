"""The values of arguments: what each type takes, and the sentence about what it does not take."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import pytest

from taskflow_otel.cli.options import ADDRESS, BEARER, COUNT, MOMENT, PORT, TASK_ID

if TYPE_CHECKING:
    Kind = click.ParamType[Any, str]

UUID = "01a22c15-7326-73ae-8614-9f6de2294e5c"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (COUNT, "1000000", 1_000_000),
        (PORT, "65535", 65_535),
        (TASK_ID, UUID, UUID),
        (MOMENT, "2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        (MOMENT, "2026-01-31T12:00:00+00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        (BEARER, " token ", "token"),
        (ADDRESS, "https://wiki.example.com/x", "https://wiki.example.com/x"),
    ],
)
def test_a_value_is_read(kind: Kind, text: str, value: object) -> None:
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [(COUNT, "0"), (COUNT, "³"), (PORT, "0"), (PORT, "65536"), (TASK_ID, UUID.upper()), (MOMENT, "now"), (BEARER, "é"),
     (ADDRESS, "x y")],
)  # fmt: skip
def test_another_value_is_refused_in_a_sentence(kind: Kind, text: str) -> None:
    with pytest.raises(click.BadParameter) as refused:
        kind.convert(text, None, None)
    assert refused.value.message
    assert (text in refused.value.message) == (kind is not BEARER)
