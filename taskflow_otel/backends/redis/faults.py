"""The meaning of Redis's error codes: the first word of each error reply.

redis-py removes the code from some errors, and an older server puts the code of an error inside a script into a
sentence. All three forms are read here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from redis import exceptions

from taskflow_otel.backends.faults import Fault

_CODES: Mapping[str, Fault] = {
    # https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors and the server's sources (server.c).
    "LOADING": Fault.PASSING,
    "OOM": Fault.PASSING,
    "MISCONF": Fault.PASSING,
    "NOREPLICAS": Fault.PASSING,
    "MASTERDOWN": Fault.CONNECTION,
    "CLUSTERDOWN": Fault.PASSING,
    "TRYAGAIN": Fault.PASSING,
    "BUSY": Fault.PASSING,
    "NOSCRIPT": Fault.PASSING,
    "READONLY": Fault.CONNECTION,  # a replica after a failover: a new connection finds the server that writes
    "UNBLOCKED": Fault.CONNECTION,
    "UNKILLABLE": Fault.PASSING,
    "NOAUTH": Fault.SETUP,
    "WRONGPASS": Fault.SETUP,
    "NOPERM": Fault.SETUP,
    "DENIED": Fault.SETUP,
    "MOVED": Fault.SETUP,
    "ASK": Fault.PASSING,
    "CROSSSLOT": Fault.SETUP,
    "NOPROTO": Fault.SETUP,
    "WRONGTYPE": Fault.SETUP,  # a key of the prefix that another program has written
}

_STRIPPED: tuple[tuple[type[exceptions.RedisError], str], ...] = (
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.TryAgainError, "TRYAGAIN"),
    (exceptions.NoScriptError, "NOSCRIPT"),
    (exceptions.NoPermissionError, "NOPERM"),
    (exceptions.ClusterCrossSlotError, "CROSSSLOT"),
    (exceptions.MovedError, "MOVED"),
    (exceptions.AskError, "ASK"),
    (exceptions.AuthenticationError, "NOAUTH"),
    (exceptions.AuthorizationError, "NOAUTH"),
)
"""Errors that redis-py raises without their code."""

_WITHIN = re.compile(rf"\b({'|'.join(_CODES)})\b")
_NOT_SET_UP = re.compile(r"unknown command|DB index|compiling script|disallowed", re.IGNORECASE)
_UNREACHABLE = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ClusterError,
    exceptions.RedisClusterException,
    exceptions.InvalidResponse,
    OSError,
)


def redis_code(error: BaseException) -> str | None:
    """The code of the server's error reply; `None` for an error on the client's side."""
    for kind, code in _STRIPPED:
        if isinstance(error, kind):
            return code
    if isinstance(error, exceptions.ResponseError) and (found := _WITHIN.search(str(error))):
        return found.group()
    return None


def redis_fault(error: BaseException) -> Fault:
    """Judge an error of redis-py."""
    code = redis_code(error)
    if code is not None:
        return _CODES[code]
    if isinstance(error, _UNREACHABLE):
        return Fault.CONNECTION
    # An error before the command is sent: a value that cannot be encoded.
    if isinstance(error, exceptions.DataError | ValueError | TypeError):
        return Fault.CHANGE
    if isinstance(error, exceptions.ResponseError) and _NOT_SET_UP.search(str(error)):
        return Fault.SETUP
    # A reply with an unknown code may be about one of the changes: halving the batch finds it, and it waits alone.
    return Fault.HELD
