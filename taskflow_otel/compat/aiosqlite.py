"""aiosqlite: how a whole piece of work gets into the thread of a connection in one hop."""

from __future__ import annotations

import sqlite3
from typing import Any, Protocol


class Script(Protocol):
    """Work on a connection, executed in the thread that this lives in."""

    def execute(self, connection: sqlite3.Connection) -> sqlite3.Cursor:
        """Do the work."""


class ScriptConnection(sqlite3.Connection):
    """A connection of which `executescript` takes a `Script` too: aiosqlite runs that, as any call, in one hop."""

    def executescript(self, script: str | Script, /) -> sqlite3.Cursor:
        """Run a script."""
        if isinstance(script, str):
            return super().executescript(script)
        return script.execute(self)


async def run_script(connection: Any, script: Script) -> None:
    """Run a script in one hop, through an `aiosqlite.Connection` that was made with `factory=ScriptConnection`."""
    await connection.executescript(script)
