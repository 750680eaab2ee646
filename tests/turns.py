"""How much is done in one turn of the event loop, counted instead of timed."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Callable
from typing import Self, TypeVar

T = TypeVar("T")


class Turns:
    """Counts the calls of functions in each turn of the loop while it is entered."""

    def __init__(self) -> None:
        self._turn = 0
        self._calls: Counter[int] = Counter()

    async def __aenter__(self) -> Self:
        self._counting = asyncio.create_task(self._count())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._counting.cancel()

    def counted(self, function: Callable[..., T]) -> Callable[..., T]:
        """The function, whose calls are counted."""

        @functools.wraps(function)
        def counting(*args: object, **kwargs: object) -> T:
            self._calls[self._turn] += 1
            return function(*args, **kwargs)

        return counting

    @property
    def calls(self) -> int:
        """All calls."""
        return self._calls.total()

    @property
    def most(self) -> int:
        """The most calls in one turn."""
        return max(self._calls.values())

    async def _count(self) -> None:
        while True:
            self._turn += 1
            await asyncio.sleep(0)
