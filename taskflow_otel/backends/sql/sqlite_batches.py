"""A whole batch in one call of a SQLite connection, and so in one hop to the connection's thread.

With one call for each statement, a batch would wait for the event loop six times or more.
"""

from __future__ import annotations

import contextlib
import sqlite3

from taskflow_otel.backends.sql.batch import Batch, Step, UnexpectedRowCount
from taskflow_otel.backends.sql.fleet import DEAD
from taskflow_otel.backends.sql.statements import Statements
from taskflow_otel.errors import DeclaredDeadError


class WholeBatch:
    """The statements of one transaction and their rows, which do not change while the other thread executes them."""

    def __init__(self, batch: Batch, statements: Statements, shard: int) -> None:
        self._steps: list[Step] = list(batch.steps())
        self._owners: set[str] = batch.owners
        self._state: str = statements.lock_state
        self._steps += batch.log_steps()
        self._steps += batch.tally.steps(statements, shard)

    def execute(self, connection: sqlite3.Connection) -> sqlite3.Cursor:
        """Execute everything and commit, or nothing and raise.

        Raises `UnexpectedRowCount` if a change must be refused, `DeclaredDeadError`, and the errors of SQLite.
        """
        cursor = connection.cursor()
        try:
            cursor.execute("BEGIN IMMEDIATE")
            for owner in self._owners:
                if cursor.execute(self._state, (owner,)).fetchone() == (DEAD,):
                    raise DeclaredDeadError(owner)
            for statement, rows, strict in self._steps:
                cursor.executemany(statement, rows)
                if strict and cursor.rowcount != len(rows):
                    raise UnexpectedRowCount
            cursor.execute("COMMIT")
        except BaseException:
            # After some errors, SQLite has already rolled back.
            with contextlib.suppress(sqlite3.Error):
                connection.rollback()
            raise
        finally:
            # The traceback of an error holds this frame: an open statement in it would keep the file open.
            cursor.close()
        return cursor
