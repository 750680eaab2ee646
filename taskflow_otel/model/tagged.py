"""Values of standard types as JSON that keeps their types, without loss.

Scalars, lists and dicts with string keys are stored unchanged; everything else is `{"$": tag, "v": value}`. Reading
calls only constructors of the standard library: no name in stored data is ever imported.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import NoneType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

TAG = "$"
MAX_DEPTH = 100
"""The deepest nesting of an argument: reading it must not depend on the depth of the reader's stack."""

# Python refuses to print or parse integers of more than 4300 digits; the limit can be lowered to 640.
_PLAIN_INT_BITS = 2000

_MICROSECOND = timedelta(microseconds=1)


class UnstorableError(Exception):
    """A value has no exact JSON form; the message is the reason. Internal to the payload modules."""


class TooDeepError(UnstorableError):
    """A value is nested too deeply, or contains itself."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value in its stored form, with a tag for which the reader gives `untag` a function."""

    name: str
    stored: Any


def type_name(kind: type) -> str:
    """Return the name of a type as people write it."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _foreign(value: Any) -> Any:
    raise UnstorableError(f"{type_name(type(value))} is not one of the standard types that describe themselves")


def tag(value: Any, foreign: Callable[[Any], Any] = _foreign, depth: int = 0) -> Any:
    """Return `value` as JSON data from which `untag` makes the same value.

    Types must match exactly; a subclass does not count as its base. For any other value, `foreign` returns simpler
    data or a `Tagged`; by default it raises `UnstorableError`. A `ZoneInfo` is stored by name, any other `tzinfo` by
    its offset.
    """
    kind = type(value)
    if kind is str or kind is bool or kind is NoneType:
        return value
    if kind is int:
        return value if value.bit_length() <= _PLAIN_INT_BITS else {TAG: "int", "v": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {TAG: "float", "v": repr(value)}
    leaf = _WRITERS.get(kind)
    if leaf is not None:
        name, write = leaf
        return {TAG: name, "v": write(value)}
    if kind is Tagged:
        return {TAG: value.name, "v": value.stored}
    if depth >= MAX_DEPTH:
        raise TooDeepError(f"it is nested more than {MAX_DEPTH} levels deep, or contains itself")
    depth += 1
    if kind is list:
        return [tag(item, foreign, depth) for item in value]
    if kind is dict:
        if TAG not in value and all(type(key) is str for key in value):
            return {key: tag(item, foreign, depth) for key, item in value.items()}
        pairs = [[tag(key, foreign, depth), tag(item, foreign, depth)] for key, item in value.items()]
        return {TAG: "dict", "v": pairs}
    if kind in _COLLECTIONS:
        return {TAG: kind.__name__, "v": [tag(item, foreign, depth) for item in value]}
    return tag(foreign(value), foreign, depth)


def untag(node: Any, readers: Mapping[str, Callable[[Any], Any]] | None = None) -> Any:
    """Return the value that was given to `tag`; `readers` read the tags of `Tagged` values.

    Raises `UnstorableError` for an unknown tag.
    """
    kind = type(node)
    if kind is list:
        return [untag(item, readers) for item in node]
    if kind is not dict:
        return node
    name = node.get(TAG)
    if name is None:
        return {key: untag(item, readers) for key, item in node.items()}
    stored = node["v"]
    if name == "dict":
        return {untag(key, readers): untag(item, readers) for key, item in stored}
    collection = _COLLECTIONS_BY_NAME.get(name)
    if collection is not None:
        return collection(untag(item, readers) for item in stored)
    read = _READERS.get(name) or (readers or {}).get(name)
    if read is None:
        raise UnstorableError(f"it has the form {name!r}, which this version of taskflow-otel does not know")
    return read(stored)


def readable(node: Any, *, numbers: bool = False) -> Any:
    """Return tagged data as JSON for people, without the tags and so without the types.

    `numbers`: NaN and infinities stay numbers, which are not JSON, and do not become texts.
    """
    if isinstance(node, list):
        return [readable(item, numbers=numbers) for item in node]
    if not isinstance(node, dict):
        return node
    name = node.get(TAG)
    if name is None:
        return {key: readable(item, numbers=numbers) for key, item in node.items()}
    if name == "float" and numbers:
        return float(node["v"])
    if name == "dict":
        return {
            key if isinstance(key := readable(k), str) else str(key): readable(item, numbers=numbers)
            for k, item in node["v"]
        }
    if name in _READERS and name not in _TEXT_TAGS:
        return str(untag(node))
    return node["v"][-1] if name == "enum" else readable(node["v"], numbers=numbers)


def _write_moment(value: datetime | time) -> Any:
    zone = value.tzinfo.key if isinstance(value.tzinfo, ZoneInfo) else None
    if zone is None and value.tzinfo is not None and value.utcoffset() is None:
        raise UnstorableError(f"its time zone, a {type_name(type(value.tzinfo))}, has no offset at this time")
    if zone is None and not value.fold:
        return value.isoformat()
    wall = value if zone is None else value.replace(tzinfo=None)
    return [wall.isoformat(), value.fold, zone]


def _read_datetime(stored: Any) -> datetime:
    if isinstance(stored, str):
        return datetime.fromisoformat(stored)
    text, fold, zone = stored
    value = datetime.fromisoformat(text).replace(fold=fold)
    return value if zone is None else value.replace(tzinfo=ZoneInfo(zone))


def _read_time(stored: Any) -> time:
    if isinstance(stored, str):
        return time.fromisoformat(stored)
    text, fold, zone = stored
    value = time.fromisoformat(text).replace(fold=fold)
    return value if zone is None else value.replace(tzinfo=ZoneInfo(zone))


def _write_bytes(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode("ascii")


_WRITERS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    UUID: ("uuid", str),
    Decimal: ("decimal", str),
    datetime: ("datetime", _write_moment),
    date: ("date", date.isoformat),
    time: ("time", _write_moment),
    timedelta: ("timedelta", lambda value: value // _MICROSECOND),
    bytes: ("bytes", _write_bytes),
    bytearray: ("bytearray", _write_bytes),
    complex: ("complex", lambda value: [repr(value.real), repr(value.imag)]),
}

_READERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda stored: int(stored, 16),
    "float": float,
    "uuid": UUID,
    "decimal": Decimal,
    "datetime": _read_datetime,
    "date": date.fromisoformat,
    "time": _read_time,
    "timedelta": lambda stored: stored * _MICROSECOND,
    "bytes": base64.b64decode,
    "bytearray": lambda stored: bytearray(base64.b64decode(stored)),
    "complex": lambda stored: complex(float(stored[0]), float(stored[1])),
}

# For people, their stored form is at least as readable as the `str()` of the value.
_TEXT_TAGS = frozenset({"int", "float", "uuid", "decimal", "date", "bytes", "bytearray"})

_COLLECTIONS: frozenset[type] = frozenset({tuple, set, frozenset})
_COLLECTIONS_BY_NAME: dict[str, Callable[[Any], Any]] = {kind.__name__: kind for kind in _COLLECTIONS}
