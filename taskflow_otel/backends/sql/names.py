"""The namespace of the tables: two applications that share a database do not see each other's tasks."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from taskflow_otel.backends.namespace import check_namespace

_OURS = re.compile(r"(?<![A-Za-z0-9_])taskflow_(?=[a-z])")


def unnamed(statement: str) -> str:
    """The default: tables and indexes begin with `taskflow_`."""
    return statement


def namer(namespace: str | None) -> Callable[[str], str]:
    """What puts a namespace before each name of a table or an index in a statement (or in a name by itself).

    Statements are changed as texts: their tables are those of one `MetaData`, and values never are part of the text.
    Raises `ConfigurationError` for a namespace that is not a short lower-case identifier.
    """
    if namespace is None:
        return unnamed
    check_namespace(namespace)
    prefix = f"{namespace}_taskflow_"
    return lru_cache(maxsize=1_000)(lambda statement: _OURS.sub(prefix, statement))
