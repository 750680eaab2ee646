"""Coroutines: the local variables of those that run on the current event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import CodeType
from typing import Any


def variables_of(code: CodeType) -> list[Mapping[str, Any]]:
    """The local variables of each running coroutine of this code, found by the task that awaits it."""
    found = []
    for task in asyncio.all_tasks():
        # From the task's coroutine inward: a coroutine of the application may await it.
        coroutine: Any = task.get_coro()
        while (frame := getattr(coroutine, "cr_frame", None)) is not None:
            if coroutine.cr_code is code:
                found.append(frame.f_locals)
                break
            coroutine = coroutine.cr_await
    return found
