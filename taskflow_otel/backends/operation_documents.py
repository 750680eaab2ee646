"""Bulk operations as JSON documents, which instances of several versions may read and write at the same time."""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import Any

import msgspec

from taskflow_otel.model.operation import Operation, Selection
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.vocabulary import OperationKind

logger: logging.Logger = logging.getLogger("taskflow_otel.backends")

_encode, _decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(Operation).decode
_QUERY = frozenset(field.name for field in fields(TaskQuery))
_KINDS = frozenset(kind.value for kind in OperationKind)
_MAX_NOTED = 1_000


def encoded(operation: Operation) -> str:
    """The document of an operation."""
    return _encode(operation).decode()


def decoded(text: str | bytes) -> Operation:
    """The operation of a document. What this version does not know is left out: good enough to show it."""
    return _decode(text)


class Claims:
    """Decides whether this version may work off an operation; of each that it may not, it logs one line."""

    def __init__(self) -> None:
        self._noted: set[str] = set()

    def allowed(self, text: str | bytes) -> Operation | None:
        """The operation of a document, or `None` if a later version asked for what this one does not know.

        Without a filter that it does not know, a deletion would delete more than was asked for; and the next write
        would lose that filter for all versions. A field that is null asks for nothing.
        """
        operation, unknown = _decode(text), unknown_fields(text)
        if operation.kind not in _KINDS:
            unknown.append(operation.kind)
        if not unknown:
            return operation
        if operation.operation_id not in self._noted and len(self._noted) < _MAX_NOTED:
            self._noted.add(operation.operation_id)
            logger.warning(
                "bulk operation %s is left to an instance of a later version: this one does not know %s",
                operation.operation_id,
                ", ".join(unknown),
            )
        return None


def unknown_fields(text: str | bytes) -> list[str]:
    """The names in a document that this version does not know, and whose values are not null."""
    document = msgspec.json.decode(text)
    selection = document.get("selection") or {}
    return [
        *_unknown(document, frozenset(Operation.__struct_fields__)),
        *_unknown(selection, frozenset(Selection.__struct_fields__)),
        *_unknown(selection.get("query") or {}, _QUERY),
    ]


def _unknown(document: dict[str, Any], known: frozenset[str]) -> list[str]:
    return [name for name, value in document.items() if value is not None and name not in known]
