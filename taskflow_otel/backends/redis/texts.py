"""Values as texts for Redis: JSON, and times as whole microseconds since 1970 in UTC."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from taskflow_otel.model.mended import without_surrogates
from taskflow_otel.model.plain import encodable

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode_plain = msgspec.json.Encoder().encode
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def to_json(value: object) -> str:
    """Return compact JSON as valid UTF-8; raises `TypeError` or `ValueError` for values without a JSON form."""
    text = _encode(value)
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        return _encode(encodable(value))
    return text


def plain_json(value: object) -> str:
    """Return what `to_json` returns for texts, finite numbers and lists of them, in a fifth of the time.

    Only for those: this encoder also takes what has no JSON form, such as NaN, and writes something else in its place.
    """
    try:
        return _encode_plain(value).decode()
    except (UnicodeEncodeError, TypeError):
        # A lone surrogate, or a subclass of `str`.
        return to_json(value)


def from_json(text: str) -> Any:
    """Return the value of a stored text; raises `ValueError` for one that is not JSON."""
    return without_surrogates(text, json.loads(text))


def to_micros(moment: datetime) -> int:
    """Return an aware datetime as microseconds since 1970."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def from_micros(micros: int) -> datetime:
    """Return microseconds since 1970 as an aware datetime in UTC."""
    return _EPOCH + timedelta(microseconds=micros)


def made_at(task_id: str) -> int:
    """Return the end of the millisecond of a UUIDv7 (RFC 9562, section 5.7), in microseconds."""
    try:
        return (uuid.UUID(task_id).int >> 80) * 1_000 + 999
    except ValueError:
        return 0
