"""Tasks in MySQL or MariaDB."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from sqlalchemy.engine.interfaces import DBAPIConnection

from taskflow_otel.backends.base import AppendLogs, AppendSpans, Applied, Change
from taskflow_otel.backends.sql.dialects import MySQLDialect
from taskflow_otel.backends.sql.servers import ServerBackend
from taskflow_otel.errors import BackendError, BackendUnavailableError, DeclaredDeadError


class MySQLBackend(ServerBackend):
    """Tasks in a MySQL (8.0 or later) or MariaDB (10.6 or later) database (extra `mysql`, aiomysql).

    `url`: `mysql://user:password@host/database`. `pool_size`: connections of this process. `timeout`: seconds for one
    operation, including the wait for a connection; after it `BackendUnavailableError` is raised (default: a third of
    the lease, at most 10 s). `namespace` separates applications that share a database.

    Raises `ConfigurationError` for a URL of another kind or with options that cannot be set there, and
    `MissingExtraError` without aiomysql.
    """

    name = "mysql"
    url_options: ClassVar[frozenset[str]] = frozenset(
        {"auth_plugin", "program_name", "read_default_file", "read_default_group", "unix_socket"}
    )

    def __init__(
        self, url: str, *, pool_size: int = 5, timeout: float | None = None, namespace: str | None = None
    ) -> None:
        super().__init__(
            url,
            MySQLDialect(),
            schemes=("mysql", "mariadb"),
            driver="aiomysql",
            extra="mysql",
            pool_size=pool_size,
            timeout=timeout,
            namespace=namespace,
        )
        self._max_packet = 0

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        """Apply all changes in one transaction; a change larger than `max_allowed_packet` is refused for good."""
        try:
            return await super().apply(changes)
        except DeclaredDeadError:
            raise
        except BackendUnavailableError as error:
            # After a packet that is too large the server closes the connection, usually before its error can be read.
            if not self._max_packet or error.divisible or sum(map(_size, changes)) < self._max_packet / 2:
                raise
            if len(changes) > 1:
                raise BackendUnavailableError(str(error), divisible=True) from error
            if _escaped_size(changes[0]) < self._max_packet:
                raise
            limit = (
                f"accepts {self._max_packet} bytes at once (max_allowed_packet), and this is more. "
                "Raise that limit, or store large arguments elsewhere."
            )
            raise BackendError(
                f"{self._where} {limit}", transient=False, reason=f"the {self.name} database {limit}"
            ) from error

    def _begin(self) -> str:
        return "START TRANSACTION"

    def _set_up(self, connection: DBAPIConnection) -> None:
        idle, lock = max(1, math.ceil(self._limits.idle)), max(1, math.ceil(self._limits.lock))
        cursor = connection.cursor()
        for statement in (
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            f"SET SESSION innodb_lock_wait_timeout = {lock}, lock_wait_timeout = {max(lock, 10)}",
            f"SET SESSION net_read_timeout = {idle}, net_write_timeout = {idle}",
            # MariaDB can end idle transactions. MySQL can only end idle connections, so they must be renewed sometimes.
            f"/*M! SET SESSION idle_transaction_timeout = {idle}, max_statement_time = {self._limits.operation} */",
            f"/*!80000 SET SESSION wait_timeout = {idle} */",
            "SELECT @@max_allowed_packet",
        ):
            cursor.execute(statement)
        (row,) = cursor.fetchall()
        self._max_packet = int(row[0])
        cursor.close()

    def _connect_args(self) -> dict[str, Any]:
        return {"connect_timeout": max(2, math.ceil(self._limits.operation)), "charset": "utf8mb4"}


def _texts(change: Change) -> list[str]:
    if isinstance(change, AppendLogs):
        return [text for entry in change.entries for text in (entry.message, str(entry.extra))]
    if isinstance(change, AppendSpans):
        return [change.text]
    record = change.record
    return [record.payload or "", record.error or "", record.stacktrace or "", str(record.tags), str(record.timeline)]


def _size(change: Change) -> int:
    return sum(map(len, _texts(change)))


def _escaped_size(change: Change) -> int:
    quoted = set("\\'\"\n\r\0\x1a")
    return sum(len(text.encode(errors="replace")) + sum(c in quoted for c in text) for text in _texts(change))
