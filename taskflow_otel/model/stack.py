"""Where running code is: the lines of a stack, without the values of its variables."""

from __future__ import annotations

import linecache
import sysconfig
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import NamedTuple

MAX_PLACES = 60
"""Of a deeper stack, the outermost and the innermost places are kept."""


_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


class Place(NamedTuple):
    """One line of a stack: where a function is."""

    file: str
    line: int
    function: str

    @property
    def short(self) -> str:
        """File, line and function."""
        return f"{self.file}:{self.line} in {self.function}"

    def text(self) -> str:
        """File, line and function, with the source line if its file can be read."""
        source = linecache.getline(self.file, self.line).strip()
        return f"{self.short}: {source}" if source else self.short


def place_of(frame: FrameType) -> Place:
    """Where a frame is now. Its variables are not looked at."""
    return Place(frame.f_code.co_filename, frame.f_lineno or frame.f_code.co_firstlineno, frame.f_code.co_name)


def own_place(places: Sequence[Place]) -> Place:
    """The innermost place that is not in the standard library or an installed package; else the innermost."""
    return next((place for place in reversed(places) if not place.file.startswith(_LIBRARIES)), places[-1])


def lines_of(places: Iterable[Place]) -> list[str]:
    """A stack as text, the outermost line first."""
    found = list(places)
    if len(found) <= MAX_PLACES:
        return [place.text() for place in found]
    half = MAX_PLACES // 2
    left_out = f"({len(found) - 2 * half} lines left out)"
    return [
        *(place.text() for place in found[:half]),
        left_out,
        *(place.text() for place in found[-half:]),
    ]
