"""The meaning of error codes: SQLSTATEs of PostgreSQL, error numbers of MySQL and MariaDB, codes of SQLite.

The exception class of a driver is not enough: a server that became read-only and a value that is too long may both be
a `DataError` or an `InternalError`. Only an error without a code is judged by its class.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping

from sqlalchemy.exc import DBAPIError, PendingRollbackError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from taskflow_otel.backends.faults import Fault

_SQLSTATES: Mapping[str, Fault] = {
    # https://www.postgresql.org/docs/current/errcodes-appendix.html
    # Classes have two characters; a full code goes before its class.
    "08": Fault.CONNECTION,
    "0A": Fault.CONNECTION,  # "cached plan must not change result type"
    "21": Fault.CHANGE,
    "22": Fault.CHANGE,
    "23": Fault.CHANGE,
    "25": Fault.CONNECTION,  # a transaction in another state than the client expects
    "26": Fault.CONNECTION,  # a prepared statement that this server connection does not know
    "28": Fault.SETUP,
    "3D": Fault.SETUP,
    "3F": Fault.SETUP,
    "40": Fault.CONFLICT,
    "42": Fault.SETUP,
    "44": Fault.CHANGE,
    "53": Fault.PASSING,
    "54": Fault.CHANGE,
    "55": Fault.PASSING,
    "57": Fault.CONNECTION,
    "58": Fault.PASSING,
    "XX": Fault.HELD,  # an internal error may be that of one statement
    "25006": Fault.CONNECTION,  # read-only after a failover: a new connection finds the one that writes
    "40002": Fault.CHANGE,
    "40003": Fault.CONNECTION,
    "42P05": Fault.CONNECTION,  # a pooler gave this connection's prepared statement to another
    "53400": Fault.SETUP,
    "55P03": Fault.HELD,
    "57014": Fault.HELD,
    "XX001": Fault.SETUP,
    "XX002": Fault.SETUP,
}


def _numbers(fault: Fault, numbers: str) -> dict[int, Fault]:
    return dict.fromkeys(map(int, numbers.split()), fault)


_MYSQL: Mapping[int, Fault] = {
    # https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html
    # https://mariadb.com/docs/server/reference/error-codes
    **_numbers(
        Fault.CONNECTION,
        "1053 1077 1079 1080 1081 1152 1154 1155 1156 1157 1158 1159 1160 1161 1184 1243 1290 1792 "
        "1836 1927 2002 2003 2006 2013 2014 2027 2055 3100 3168 4031",
    ),
    **_numbers(
        Fault.CONFLICT,
        "1020 1213 1614 3101",
    ),
    **_numbers(
        Fault.HELD,
        "1205 1317 1969 3024 3058 3572",
    ),
    **_numbers(
        Fault.CHANGE,
        "1048 1062 1118 1153 1162 1264 1265 1292 1300 1301 1366 1367 1406 1441 1451 1452 1525 1690 "
        "3140 3144 3156 3819 4025 4078",
    ),
    **_numbers(
        Fault.PASSING,
        "1015 1021 1024 1026 1028 1030 1037 1038 1040 1041 1114 1135 1180 1203 1206 1226 1637 1878",
    ),
    **_numbers(
        Fault.SETUP,
        "1044 1045 1049 1054 1064 1071 1072 1129 1130 1142 1143 1146 1227 1267 1305 1364 1370 1698 "
        "1709 1812 1813 1932 4151",
    ),
}

_SQLITE: Mapping[int, Fault] = {
    # https://www.sqlite.org/rescode.html; primary codes, and extended ones that mean something else.
    sqlite3.SQLITE_ERROR: Fault.SETUP,
    sqlite3.SQLITE_PERM: Fault.SETUP,
    sqlite3.SQLITE_ABORT: Fault.PASSING,
    sqlite3.SQLITE_BUSY: Fault.PASSING,
    sqlite3.SQLITE_LOCKED: Fault.PASSING,
    sqlite3.SQLITE_NOMEM: Fault.PASSING,
    sqlite3.SQLITE_READONLY: Fault.CONNECTION,
    sqlite3.SQLITE_INTERRUPT: Fault.PASSING,
    sqlite3.SQLITE_IOERR: Fault.CONNECTION,
    sqlite3.SQLITE_CORRUPT: Fault.SETUP,
    sqlite3.SQLITE_FULL: Fault.PASSING,
    sqlite3.SQLITE_CANTOPEN: Fault.CONNECTION,
    sqlite3.SQLITE_PROTOCOL: Fault.PASSING,
    sqlite3.SQLITE_SCHEMA: Fault.CONNECTION,
    sqlite3.SQLITE_TOOBIG: Fault.CHANGE,
    sqlite3.SQLITE_CONSTRAINT: Fault.CHANGE,
    sqlite3.SQLITE_MISMATCH: Fault.CHANGE,
    sqlite3.SQLITE_RANGE: Fault.CHANGE,
    sqlite3.SQLITE_AUTH: Fault.SETUP,
    sqlite3.SQLITE_NOTADB: Fault.SETUP,
}

_BY_CLASS = {
    "OperationalError": Fault.CONNECTION,
    "InterfaceError": Fault.CONNECTION,
    "InternalError": Fault.CONNECTION,
    "DataError": Fault.CHANGE,
    "IntegrityError": Fault.CHANGE,
    "NotSupportedError": Fault.CHANGE,
    "ProgrammingError": Fault.CHANGE,
}
"""DBAPI (PEP 249) classes of errors that the driver raises by itself, without an answer of the database."""

_MISSING_PREPARED = re.compile(r"prepared statement .* (does not exist|already exists)")


def original(error: BaseException) -> BaseException:
    """The driver's error inside SQLAlchemy's error."""
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def postgres_fault(error: BaseException) -> Fault:
    """Judge an error of psycopg."""
    cause = original(error)
    state: str | None = getattr(cause, "sqlstate", None)
    if state is not None:
        return _SQLSTATES.get(state, _SQLSTATES.get(state[:2], Fault.HELD))
    # Poolers send messages of their own, without a code.
    return Fault.CONNECTION if _MISSING_PREPARED.search(str(cause)) else _without_code(error)


def mysql_fault(error: BaseException) -> Fault:
    """Judge an error of aiomysql."""
    arguments: tuple[object, ...] = getattr(original(error), "args", ())
    number = arguments[0] if arguments else None
    if isinstance(number, int) and not isinstance(original(error), OSError) and number:
        return _MYSQL.get(number, Fault.HELD)
    return _without_code(error)


def sqlite_fault(error: BaseException) -> Fault:
    """Judge an error of sqlite3."""
    code: int | None = getattr(original(error), "sqlite_errorcode", None)
    if code is not None:
        return _SQLITE.get(code, _SQLITE.get(code & 0xFF, Fault.HELD))
    return _without_code(error)


def _without_code(error: BaseException) -> Fault:
    cause = original(error)
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return Fault.CONNECTION
    # A connection that broke during an earlier statement; a timeout is an OSError.
    if isinstance(cause, PendingRollbackError | OSError):
        return Fault.CONNECTION
    if isinstance(cause, PoolTimeoutError):
        return Fault.PASSING
    for base in type(cause).__mro__:
        if base.__name__ in _BY_CLASS and not isinstance(cause, SQLAlchemyError):
            return _BY_CLASS[base.__name__]
    # A value that cannot be written: a text that cannot be encoded, a number that is too large.
    return Fault.CHANGE if isinstance(cause, ValueError | TypeError | ArithmeticError | SQLAlchemyError) else Fault.HELD
