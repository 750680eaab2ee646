"""Task ids: UUID version 7 (RFC 9562), so that the order of ids is the order of creation.

The list of tasks, newest first, is then a walk along the primary key of every backend.
"""

from __future__ import annotations

import os
import threading
import time

_lock = threading.Lock()
_last = 0
_RANDOM = 9
"""Random bytes in an id."""
_pool = memoryview(b"")
"""Random bytes that are left of what the system was last asked for: a call for each id would cost as much as the id."""


def _forget_pool() -> None:
    global _pool
    _pool = memoryview(b"")


# A child of this process must not draw the same ones.
os.register_at_fork(after_in_child=_forget_pool)


def new_task_id() -> str:
    """Return a new UUIDv7 in its canonical form; ids made by one process are strictly increasing.

    The 12 bits after the millisecond and the top of the random tail hold a counter (RFC 9562, section 6.2,
    method 2): the previous value is incremented when the clock has not moved, or has moved back.
    """
    global _last, _pool
    with _lock:
        if not _pool:
            _pool = memoryview(os.urandom(128 * _RANDOM))
        tail = int.from_bytes(_pool[:_RANDOM], "big")
        _pool = _pool[_RANDOM:]
        # 48 bits of milliseconds and 74 of counter and randomness, without the version and variant bits.
        value = (time.time_ns() // 1_000_000 << 74) | (tail & ((1 << 72) - 1))
        if value <= _last:
            value = _last + 1 + (tail & 0xFFFFFFFF)
        _last = value
    high = value >> 62  # 48 bits of time, 12 of rand_a
    bits = ((high >> 12) << 80) | (0x7 << 76) | ((high & 0xFFF) << 64) | (0b10 << 62) | (value & ((1 << 62) - 1))
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
