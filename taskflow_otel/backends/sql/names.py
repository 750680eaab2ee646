"""The namespace of the tables, which separates applications in one database."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from taskflow_otel.backends.namespace import check_namespace

_OURS = re.compile(r"(?<![A-Za-z0-9_])taskflow_(?=[a-z])")


def unnamed(statement: str) -> str:
    """The default: the names of tables and indexes begin with `taskflow_`."""
    return statement


def namer(namespace: str | None) -> Callable[[str], str]:
    """Return a function that puts a namespace before each table and index name in a statement, or before one name.

    It changes the text of statements: all tables are in one `MetaData`, and values are never part of the text. Raises
    `ConfigurationError` for a namespace that is not a short lower-case identifier.
    """
    if namespace is None:
        return unnamed
    check_namespace(namespace)
    prefix = f"{namespace}_taskflow_"
    return lru_cache(maxsize=1_000)(lambda statement: _OURS.sub(prefix, statement))
