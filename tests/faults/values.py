"""Values that users write, and that nobody expects: hypothesis strategies of any object, any text and any number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast

from hypothesis import strategies as st

from taskflow_otel.model.plain import repr_of

NO_TEXT = cast("str", 7)


class Broken:
    """An object whose every description raises."""

    def __init__(self, error: type[BaseException] = RuntimeError) -> None:
        self.error = error

    def __repr__(self) -> str:
        raise self.error("no repr")

    def __str__(self) -> str:
        raise self.error("no str")

    def __float__(self) -> float:
        raise self.error("no number")

    def __index__(self) -> int:
        raise self.error("no integer")


class Wordless:
    """An object whose `str()` is no text, and whose `repr()` is too long and unprintable."""

    def __str__(self) -> str:
        return NO_TEXT

    def __repr__(self) -> str:
        return "\ud800\0" * 50_000


class LyingText(str):
    """A text whose own methods raise."""

    def __str__(self) -> str:
        raise RuntimeError("no str")

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def encode(self, *_: object, **__: object) -> bytes:
        raise RuntimeError("no bytes")


class LyingDict(dict[Any, Any]):
    """A mapping whose own methods raise."""

    def items(self) -> Any:
        raise RuntimeError("no items")

    def __iter__(self) -> Any:
        raise RuntimeError("no keys")


class LyingNumber(int):
    """An integer whose own methods raise."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __int__(self) -> int:
        raise RuntimeError("no integer")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not comparable")

    __hash__ = int.__hash__


def looped() -> list[Any]:
    """A list that holds itself, twice."""
    loop: list[Any] = []
    loop += [loop, {"again": loop}]
    return loop


def deep(levels: int) -> list[Any]:
    """A list in a list in a list."""
    outer: list[Any] = []
    for _ in range(levels):
        outer = [outer]
    return outer


def long_text() -> str:
    """A text of 100,000 characters."""
    return "y" * 100_000


def many_bytes() -> bytearray:
    """As many bytes."""
    return bytearray(100_000)


def many_numbers() -> list[int]:
    """A list of 5,000 numbers."""
    return list(range(5_000))


NASTY_TEXTS = (
    "",
    " ",
    "\0",
    "a\0",
    "a\ufffd",
    "\ud800",
    "\udfff",
    "a\ud800b",
    "a ",
    "A",
    "a",
    "\n",
    "\u2028",
    "é",
    "☕",
    "'",
    "x" * 300,
)
NASTY_NUMBERS = (
    math.nan, math.inf, -math.inf, 10**5000, -(10**5000), 10**400, 2**31, 2**63, -(2**63) - 1,
    1e300, 1e12, -1, 0, 5e-324,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Said:
    """A value, in a box that hypothesis can print."""

    value: Any

    def __repr__(self) -> str:
        return f"Said({repr_of(self.value)})"


def boxed(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Said]:
    """The values, each in a box that hypothesis can print."""
    return values.map(Said)


def _of(values: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    """One of values that hypothesis cannot print."""
    return st.sampled_from(range(len(values))).map(lambda index: values[index])


def texts() -> st.SearchStrategy[str]:
    """Any text, those included that no encoder takes."""
    return st.one_of(st.sampled_from(NASTY_TEXTS), st.text(st.characters(codec=None), max_size=40))


def numbers() -> st.SearchStrategy[Any]:
    """Any number, and what is nearly one."""
    return st.one_of(
        _of(NASTY_NUMBERS),
        st.integers(),
        st.floats(),
        st.booleans(),
        _of((Decimal("NaN"), Decimal("1e400"), Fraction(1, 3), LyingNumber(3), timedelta.max, timedelta.min)),
    )


def anything(*, hashable: bool = False) -> st.SearchStrategy[Any]:
    """Any object: plain, nested, endless, deep, huge, broken."""
    scalars = st.one_of(
        texts(),
        numbers(),
        st.none(),
        st.binary(max_size=20),
        st.dates(),
        st.uuids(),
        st.builds(Broken, st.sampled_from([RuntimeError, SystemExit, RecursionError, MemoryError])),
        st.builds(Wordless),
        st.builds(LyingText, st.just("hm")),
        st.just(object()),
        st.builds(long_text),
    )
    if hashable:
        return st.one_of(scalars, st.tuples(scalars, scalars), st.frozensets(scalars, max_size=2))
    keys = st.one_of(
        texts(), st.integers(), st.binary(max_size=3), st.tuples(st.integers(), texts()), st.just(date(2026, 1, 1))
    )
    return st.recursive(
        st.one_of(
            scalars,
            st.builds(looped),
            st.builds(deep, st.sampled_from([20, 3_000])),
            st.builds(LyingDict, st.just({"a": 1})),
            st.builds(many_bytes),
            st.builds(many_numbers),
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.tuples(inner, inner),
            st.dictionaries(keys, inner, max_size=3),
            st.frozensets(texts(), max_size=3),
        ),
        max_leaves=8,
    )


NASTY_OBJECTS: tuple[Any, ...] = (
    *NASTY_TEXTS, *NASTY_NUMBERS, Broken(), Broken(SystemExit), Wordless(), LyingText("hm"), LyingDict({"a": 1}),
    LyingNumber(3), looped(), deep(3_000), {("a", "b"): 1, b"k": 2}, object(), Decimal("NaN"), long_text(),
    many_bytes(),
)  # fmt: skip
"""One of each kind, for where hypothesis cannot reach."""
