"""Task functions that wait at a known line, for each executor."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

_SECRET = "a value that no stack may show"


async def waits_on_the_loop(marker: str, secret: str = _SECRET) -> None:
    Path(marker).touch()
    await _deeper()


async def _deeper() -> None:
    await asyncio.sleep(60)  # here on the loop


def waits_in_a_thread(marker: str, secret: str = _SECRET) -> None:
    Path(marker).touch()
    released = Path(f"{marker}-released")
    while not released.exists():
        time.sleep(0.02)  # here in a thread


def returns_an_awaitable(marker: str, secret: str = _SECRET) -> object:
    return waits_on_the_loop(marker, secret)


def line_with(mark: str) -> str:
    """File and line of the source line that ends with this mark."""
    lines = Path(__file__).read_text().splitlines()
    (number,) = (index for index, line in enumerate(lines, 1) if line.endswith(f"# {mark}"))
    return f"{__file__}:{number}"
