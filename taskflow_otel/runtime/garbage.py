"""Which objects the garbage collector visits."""

from __future__ import annotations

import gc


class FrozenStart:
    """Excludes all objects that exist at the start from later garbage collections (`gc.freeze`).

    A full collection visits every object of the process. With frameworks loaded, each one blocks the event loop for
    tens of milliseconds and finds nothing. What is garbage at the start stays until `thaw`, so the first start of a
    process collects first. Later ones do not, since a collection at each start would slow test suites down.
    """

    _collected = False

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._mine = False

    def freeze(self) -> None:
        """Freeze everything that exists; do nothing if other code has already frozen objects."""
        if self._wanted and gc.get_freeze_count() == 0:
            if not FrozenStart._collected:
                FrozenStart._collected = True
                gc.collect()
            gc.freeze()
            self._mine = True

    def thaw(self) -> None:
        """Undo `freeze`; harmless if `freeze` did nothing."""
        if self._mine:
            self._mine = False
            gc.unfreeze()
