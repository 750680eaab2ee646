"""Functions to declare, and some that no task can be made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator


async def job(number: int = 0) -> None:
    """Do nothing."""


def numbers() -> Iterator[int]:
    yield 1


async def later_numbers() -> AsyncIterator[int]:
    yield 1
