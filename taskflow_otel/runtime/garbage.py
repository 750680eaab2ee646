"""Which objects the garbage collector visits."""

from __future__ import annotations

import gc
import sys

_GROWTH = 3
"""Everything is visited again when the objects that were frozen since then are this many times those of then,"""
_LEAST = 400_000
"""and at least this many: some 50 MB, of which few are garbage."""
_OFTEN = 1
"""Collections of the middle generation before a full one. CPython's 10 are for full ones that take long."""
_USUAL = {(700, 10), (2_000, 10)}
"""The thresholds of the younger generations that CPython sets (until 3.12, since 3.13): no decision of other code."""
_FEW, _AT_ONCE = 3_500, 0
"""New objects before the youngest generation is collected, and such collections before one of the middle generation.
32 requests under way have several times 700 objects, all of which are visited and none is garbage. With 3,500 and every
second collection of both generations, a full one visits no more than with CPython's 700 and every eleventh."""

_INTERPRETER = 5_000
"""Fewer frozen objects than this are no decision of other code: CPython 3.12 starts with 375."""


class FrozenHeap:
    """Keeps full garbage collections short: each visits only what is younger than the one before (`gc.freeze`).

    A full collection visits every object of the process. With frameworks loaded and ten thousand tasks alive, it blocks
    the event loop for a tenth of a second, and finds next to nothing. So what exists at the start is frozen, and then
    what survives each full collection: nothing of that is garbage at that moment. Reference counts still free frozen
    objects. Only a cycle that becomes garbage later stays: until the heap has grown to several times the objects that
    it had when everything was visited, or until other code calls `gc.collect()`. Then everything is visited again.

    What is garbage at the start would stay too, so the first start of a process collects first. Later ones do not,
    since a collection at each start would slow test suites down. Nor is each start a time to count frozen objects,
    which takes 20 ms for each 200,000: once other code has frozen some, its decision stands as long as the process.
    """

    _collected = False
    _held = False
    """A manager that runs has frozen objects."""
    _left_alone = False
    """Other code had frozen objects when a manager started."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._mine = False
        self._threshold = gc.get_threshold()
        """What was set before `freeze`."""
        self._everything = False
        """The present full collection visits everything."""
        self._old = 0
        """The objects that were frozen when everything had been visited."""
        self._since = 0
        """An upper bound of the objects that were frozen since then."""
        self._blocks = 0
        """The blocks of memory that were allocated then."""

    def freeze(self) -> None:
        """Freeze everything that exists; do nothing if another manager or other code has already frozen objects."""
        if not self._wanted or FrozenHeap._held or FrozenHeap._left_alone:
            return
        if gc.get_freeze_count() >= _INTERPRETER:
            FrozenHeap._left_alone = True
            return
        if not FrozenHeap._collected:
            FrozenHeap._collected = True
            gc.collect()
        self._freeze_everything()
        youngest, middle, oldest = self._threshold = gc.get_threshold()
        if (youngest, middle) in _USUAL:
            youngest, middle = _FEW, _AT_ONCE
        gc.set_threshold(youngest, middle, min(oldest, _OFTEN))
        gc.callbacks.append(self._collecting)
        self._mine = True
        FrozenHeap._held = True

    def thaw(self) -> None:
        """Undo `freeze`; harmless if `freeze` did nothing."""
        if self._mine:
            self._mine = False
            FrozenHeap._held = False
            gc.callbacks.remove(self._collecting)
            gc.set_threshold(*self._threshold)
            gc.unfreeze()

    def _collecting(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] < 2:
            return
        if phase == "start":
            asked = gc.get_count()[2] <= gc.get_threshold()[2]
            self._everything = asked or self._grown()
            if self._everything:
                gc.unfreeze()
        elif self._everything:
            self._freeze_everything()
        else:
            self._since += len(gc.get_objects(2))
            gc.freeze()

    def _freeze_everything(self) -> None:
        gc.freeze()
        self._old, self._since = gc.get_freeze_count(), 0
        self._blocks = sys.getallocatedblocks()

    def _grown(self) -> bool:
        most = max(self._old * _GROWTH, _LEAST)
        if self._since <= most:
            return False
        # Many of those may be freed by now. Counting them would block the event loop for 20 ms of each 200,000, so
        # first ask the allocator, which knows an upper bound too: each object has a block of its own.
        blocks = sys.getallocatedblocks()
        if blocks - self._blocks > most:
            self._since = max(0, gc.get_freeze_count() - self._old)
            self._blocks = blocks - self._since
        return self._since > most and blocks - self._blocks > most
