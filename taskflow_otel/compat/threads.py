"""Threads: where another one is now."""

from __future__ import annotations

import sys
from types import FrameType


def frame_of(thread: int) -> FrameType | None:
    """The innermost frame of a running thread (`threading.get_ident()`); `None` if there is no such thread."""
    # The interpreter documents it, for debuggers, and promises it to no one.
    return sys._current_frames().get(thread)  # noqa: SLF001  # as above
