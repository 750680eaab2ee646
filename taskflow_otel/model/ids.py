"""Task ids: UUID version 7 (RFC 9562), so that the order of ids is the order of creation.

So every backend can list tasks, newest first, along its primary key.
"""

from __future__ import annotations

import os
import threading
import time
from uuid import UUID

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.plain import repr_of

_lock = threading.Lock()
_last = 0
"""The millisecond of the latest id, and its digits."""
_prefix = ""
_minute = -1
"""The upper 32 bits of that millisecond, which stay for a minute, and their digits."""
_minute_digits = ""
_PAIRS = tuple(f"{byte:02x}" for byte in range(256))
_POOL = 256
_pool: list[str] = []
"""What follows the millisecond in the next ids, the least one last. The bytes of the system and their text are made
for many ids at once: for each one alone, they would cost as much as all else in it."""
# Four random bytes of each id have the version and the variant among their bits.
_KEPT = int("0fff3fff" * _POOL, 16)
_SET = int("70008000" * _POOL, 16)


def _begin_in_child() -> None:
    global _lock
    # Another thread of the parent may have held the lock, and the child must not use the same bytes.
    _lock = threading.Lock()
    _pool.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(after_in_child=_begin_in_child)


def id_text(task_id: str | UUID) -> str:
    """A task id as the ledger has it: a route may declare its parameter as a `UUID`. Raises `ConfigurationError`."""
    if isinstance(task_id, str):
        return task_id
    if isinstance(task_id, UUID):
        return str(task_id)
    raise ConfigurationError(f"a task id is a text or a UUID, not {repr_of(task_id)}: give the task_id of a record")


def new_task_id() -> str:
    """Return a new UUIDv7 in its canonical form; ids made by one process are strictly increasing.

    The bits after the millisecond are random numbers in increasing order. When they are used up, the next ids have the
    following millisecond, even if the clock has not reached it (RFC 9562, section 6.2, counter rollover).
    """
    global _last
    lock = _lock
    # Not `with`, which costs three times as much.
    lock.acquire()
    try:
        # The machine's time: an id must be new in the ledger even if a test controls the clock.
        millisecond = time.time_ns() // 1_000_000
        if not _pool:
            _refill()
            if millisecond <= _last:
                millisecond = _last + 1
        if millisecond > _last:
            _last = millisecond
            _write_prefix(millisecond)
        return _prefix + _pool.pop()
    finally:
        lock.release()


def _write_prefix(millisecond: int) -> None:
    global _prefix, _minute, _minute_digits
    if millisecond >> 16 != _minute:
        _minute = millisecond >> 16
        _minute_digits = f"{_minute:08x}-"
    low = millisecond & 0xFFFF
    _prefix = f"{_minute_digits}{_PAIRS[low >> 8]}{_PAIRS[low & 0xFF]}-"


def _refill() -> None:
    groups = (int.from_bytes(os.urandom(4 * _POOL)) & _KEPT | _SET).to_bytes(4 * _POOL).hex("-", 2) + "-"
    rest = os.urandom(6 * _POOL).hex()
    tails = [groups[10 * number : 10 * number + 10] + rest[12 * number : 12 * number + 12] for number in range(_POOL)]
    tails.sort(reverse=True)
    _pool.extend(tails)
