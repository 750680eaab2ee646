"""Faults planted in the library of one server process, to see that the storm finds them."""

from __future__ import annotations

from collections.abc import Callable

PLANTS: dict[str, Callable[[], None]] = {}


def plant(name: str) -> None:
    """Break one promise in this process."""
    PLANTS[name]()
