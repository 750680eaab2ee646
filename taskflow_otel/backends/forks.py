"""Connections that a process has inherited from the parent of a fork."""

from __future__ import annotations

import os

_kept: list[object] = []


class Forks:
    """Whether a backend was opened by another process, its parent."""

    def __init__(self) -> None:
        self._process = os.getpid()

    def crossed(self, *connections: object) -> bool:
        """Whether the process was forked since the last call: then the connections are those of the parent.

        They are kept here. Closing them, or letting them be collected, could end those of the parent.
        """
        if self._process == os.getpid():
            return False
        self._process = os.getpid()
        _kept.extend(connections)
        return True
