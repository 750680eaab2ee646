"""Task ids: UUID version 7 (RFC 9562), so that the order of ids is the order of creation.

So every backend can list tasks, newest first, along its primary key.
"""

from __future__ import annotations

import os
import struct
import threading
import time

_lock = threading.Lock()
_last = 0
_RANDOM = struct.Struct("=QB")
"""The 72 random bits of an id."""
_POOL = 128
_LOW = (1 << 62) - 1
_pool: list[int] = []
"""Unused random numbers from the last call of the system: a call for each id would cost as much as the id."""


def _begin_in_child() -> None:
    global _lock
    # Another thread of the parent may have held the lock, and the child must not use the same bytes.
    _lock = threading.Lock()
    _pool.clear()


os.register_at_fork(after_in_child=_begin_in_child)


def new_task_id() -> str:
    """Return a new UUIDv7 in its canonical form; ids made by one process are strictly increasing.

    The 12 bits after the millisecond and the top of the random tail hold a counter (RFC 9562, section 6.2,
    method 2): the previous value is incremented if the clock has not moved forward.
    """
    global _last
    with _lock:
        if not _pool:
            _pool.extend([high << 8 | low for high, low in _RANDOM.iter_unpack(os.urandom(_POOL * _RANDOM.size))])
        tail = _pool.pop()
        # The machine's time: an id must be new in the ledger even if a test controls the clock.
        # 48 bits of milliseconds and 74 of counter and randomness, without the version and variant bits.
        value = (time.time_ns() // 1_000_000 << 74) | tail
        if value <= _last:
            value = _last + 1 + (tail & 0xFFFFFFFF)
        _last = value
    high, low = value >> 62, value & _LOW  # 48 bits of time and 12 of rand_a; 62 of rand_b
    time_low, rand_a, rand_b = high >> 12 & 0xFFFF, high & 0xFFF, low & 0xFFFF_FFFF_FFFF
    return f"{high >> 28:08x}-{time_low:04x}-7{rand_a:03x}-{0x8000 | low >> 48:04x}-{rand_b:012x}"
