"""Which attributes of the spans inside a task are kept for its page, and in which form.

Only names of the semantic conventions (1.44) and of their older forms whose values say what was called and how it
ended. Statements, parameters, headers, queries, users and clients are left out: they may be personal data.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from taskflow_otel.model.spans import MAX_VALUE, Value, kept_value

KEPT: frozenset[str] = frozenset(
    {
        "code.function.name",
        "db.collection.name",
        "db.name",
        "db.namespace",
        "db.operation",
        "db.operation.batch.size",
        "db.operation.name",
        "db.query.summary",
        "db.response.returned_rows",
        "db.response.status_code",
        "db.sql.table",
        "db.system",
        "db.system.name",
        "error.type",
        "http.host",
        "http.method",
        "http.request.method",
        "http.request.resend_count",
        "http.response.status_code",
        "http.route",
        "http.scheme",
        "http.status_code",
        "http.target",
        "http.url",
        "messaging.batch.message_count",
        "messaging.destination.name",
        "messaging.operation",
        "messaging.operation.name",
        "messaging.operation.type",
        "messaging.system",
        "net.peer.name",
        "net.peer.port",
        "rpc.grpc.status_code",
        "rpc.method",
        "rpc.response.status_code",
        "rpc.service",
        "rpc.system",
        "rpc.system.name",
        "server.address",
        "server.port",
        "url.full",
        "url.path",
        "url.scheme",
    }
)
ADDRESSES = frozenset({"http.target", "http.url", "url.full"})
"""Kept without what may be secret in them: user, password, query and fragment."""
_MOST = 40


def kept_attributes(attributes: Mapping[str, Any] | None, wanted: frozenset[str]) -> dict[str, Value]:
    """Those of these attributes that are wanted, cut to what a page shows."""
    kept: dict[str, Value] = {}
    if attributes is None:
        return kept
    for name, value in attributes.items():
        if name not in wanted:
            continue
        # Most are what `kept_value` would make of them.
        if (
            type(value) is str
            and len(value) <= MAX_VALUE
            and value.isascii()
            and "\x00" not in value
            and name not in ADDRESSES
        ):
            kept[name] = value
            continue
        plain = kept_value(_address(value) if name in ADDRESSES and isinstance(value, str) else value)
        if plain is not None:
            kept[name] = plain
    return kept if len(kept) <= _MOST else dict(islice(kept.items(), _MOST))


def _address(text: str) -> str:
    """A URL, or the path of one, without user, password, query and fragment."""
    if "@" not in text and "?" not in text and "#" not in text:
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return text.partition("?")[0].rpartition("@")[2]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
