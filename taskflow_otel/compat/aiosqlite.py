"""aiosqlite: how to run a whole piece of work in the thread of a connection with one hop."""

from __future__ import annotations

import sqlite3
from typing import Any, Protocol


class Script(Protocol):
    """Work on a connection, executed in the connection's thread."""

    def execute(self, connection: sqlite3.Connection) -> sqlite3.Cursor:
        """Do the work."""


class ScriptConnection(sqlite3.Connection):
    """A connection whose `executescript` also takes a `Script`: aiosqlite runs it in one hop, like any call."""

    def executescript(self, script: str | Script, /) -> sqlite3.Cursor:
        """Run a script."""
        if isinstance(script, str):
            return super().executescript(script)
        return script.execute(self)


async def run_script(connection: Any, script: Script) -> None:
    """Run a script in one hop, through an `aiosqlite.Connection` that was made with `factory=ScriptConnection`."""
    await connection.executescript(script)
