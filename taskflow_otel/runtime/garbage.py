"""What the collector of garbage looks at."""

from __future__ import annotations

import gc


class FrozenStart:
    """Keeps what a process has loaded by its start out of every later collection (`gc.freeze`).

    A full collection visits every object of the process: with frameworks loaded that stops the event loop for tens of
    milliseconds, again and again, to find nothing. Concerns the whole process, so it is done only when asked for.
    """

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._mine = False

    def freeze(self) -> None:
        """Collect, then freeze what is left; does nothing where something else has frozen objects already."""
        if self._wanted and gc.get_freeze_count() == 0:
            gc.collect()
            gc.freeze()
            self._mine = True

    def thaw(self) -> None:
        """Let the collector look at everything again; harmless when `freeze` has done nothing."""
        if self._mine:
            self._mine = False
            gc.unfreeze()
