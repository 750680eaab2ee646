"""Converts any value of user code into finite, valid, bounded data for backends and exporters.

Nothing here raises, even if `str()`, `repr()`, `__len__` or `__iter__` of a value fail. Cut or replaced parts are
marked. The methods of built-in types are called through the type, so that a subclass cannot override them.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from taskflow_otel.model.record import MAX_TEXT

MAX_EXTRA_TEXT = 8_192
"""Characters kept of the extra values of one log entry, including names."""
MAX_ITEMS = 1_000
"""Items kept of the extra values of one log entry, on all levels together."""
MAX_DEPTH = 16
"""Levels of lists and mappings that are kept; deeper ones are replaced by a mark."""
MAX_NAME = 255
"""Characters kept of a name: of a class, a tag, or a key."""
MAX_TAGS = 64
MAX_TAG_TEXT = 1_024
"""Characters kept of a tag's value."""
MAX_PROGRESS_TEXT = 1_024
"""Characters kept of the message of a progress report."""

_WIDEST_INTEGER = 63
"""Bits of an integer: OpenTelemetry has no longer ones, and most JSON readers round them."""
_DECIMAL_BITS = 2_000
"""Below the lowest limit that Python allows for the decimal digits of an integer."""
_SHORT = 256
_BATCH_CHARACTERS, _BATCH_ITEMS = 64 * 1_048_576, 1_000_000
_SCALARS = frozenset({bool, type(None)})
_MARK = 64
"""The most characters that a cut mark, or the number of a duplicate name, adds to a text."""
_TOO_DEEP = "[deeper levels cut]"


def plain_text(text: str, limit: int = MAX_TEXT) -> str:
    """`text` as valid UTF-8 without NUL, cut to `limit` characters with a note of how much is missing.

    NUL and lone surrogates, which databases and encoders refuse, become escapes.
    """
    text = str.__str__(text)
    length = len(text)
    kept = text if length <= limit else text[:limit]
    missing = length - len(kept)
    if not kept.isascii() or "\x00" in kept:
        kept = kept.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
        if len(kept) > limit:
            # Escapes are longer than what they stand for.
            missing += len(kept) - limit
            kept = kept[:limit]
    return kept if not missing else f"{kept}… [{missing} characters cut]"


def is_storable(text: str) -> bool:
    """Whether every database and every encoder accepts this text unchanged."""
    if "\x00" in text:
        return False
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        return False
    return True


def distinct_text(text: str) -> str:
    """`text` itself if it can be stored unchanged, else its digest: two texts never become equal."""
    return text if is_storable(text) else digest(text)


def digest(text: str) -> str:
    """A short digest of `text`, for any characters."""
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def text_of(value: object, limit: int = MAX_TEXT) -> str:
    """`str(value)` as `plain_text`, even if `str()` fails."""
    return _said(str, value, limit)


def repr_of(value: object, limit: int = 80) -> str:
    """`repr(value)` as `plain_text`, for messages about values that were refused."""
    return _said(repr, value, limit)


def _said(say: Callable[[object], str], value: object, limit: int) -> str:
    kind = type(value)
    if issubclass(kind, str) and say is str:
        return plain_text(value, limit)  # type: ignore[arg-type]  # it is a str
    if issubclass(kind, int) and kind is not bool:
        return _written(int.__int__(value), limit)  # type: ignore[arg-type]  # it is an int
    if kind is bytes or kind is bytearray:
        shown = plain_text(repr(bytes(value[:limit])), limit)  # type: ignore[index]  # it is bytes
        cut = len(value) - limit  # type: ignore[arg-type]  # it is bytes
        return shown if cut <= 0 else f"{shown[:limit]}… [{cut} bytes cut]"
    try:
        return plain_text(say(value), limit)
    except BaseException as broken:  # a SystemExit from a `__str__` would end the event loop
        return f"<{say.__name__}() of {class_name(kind)} raised {class_name(type(broken))}>"


def class_name(cls: type) -> str:
    """The qualified name of a class, without the module for built-ins (semantic conventions, `error.type`)."""
    try:
        module, name = cls.__module__, cls.__qualname__
        return plain_text(name if module == "builtins" else f"{module}.{name}", MAX_NAME)
    except BaseException:  # a metaclass may compute both
        return "<a class without a name>"


def iso(moment: datetime) -> str:
    """ISO 8601 in UTC, with the offset."""
    # The library's own times are in UTC.
    return moment.isoformat() if moment.tzinfo is UTC else moment.astimezone(UTC).isoformat()


def plain_number(value: object) -> float | None:
    """A number as a built-in type; `None` if it is not a finite number. Integers of up to 64 bits stay exact."""
    kind = type(value)
    if kind is float:
        return value if math.isfinite(value) else None  # type: ignore[arg-type, return-value]  # it is a float
    try:
        if hasattr(kind, "__index__"):
            whole = int.__int__(operator.index(value))  # type: ignore[arg-type]  # it has the method
            return whole if whole.bit_length() <= _WIDEST_INTEGER else float(whole)
        if hasattr(kind, "__float__"):
            number = float.__float__(float(value))  # type: ignore[arg-type]  # it has the method
            return number if math.isfinite(number) else None
    except BaseException:  # too large for a float, or a user's method that raises
        return None
    return None


def plain_extra(extra: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The extra values of a log entry as JSON data, and the number of their characters.

    Integers of more than 64 bits, infinities and values without a JSON form become text. The rest is bounded in size,
    number and depth; a mark shows where something was cut.
    """
    size = 0
    for name, value in extra.items():
        kind = type(value)
        if kind is str:
            size += len(value)
            if len(value) > _SHORT or not value.isascii() or "\x00" in value:
                break
        elif kind is int:
            if not -0x8000_0000_0000_0000 <= value <= 0x7FFF_FFFF_FFFF_FFFF:
                break
        elif kind is float:
            if not math.isfinite(value):
                break
        elif kind not in _SCALARS:
            break
        if type(name) is not str or len(name) > MAX_NAME or not name.isascii() or "\x00" in name:
            break
        size += len(name) + 8
        if size > MAX_EXTRA_TEXT:
            break
    else:
        return dict(extra), size
    budget = _Budget(MAX_EXTRA_TEXT, MAX_ITEMS)
    plain = budget.mapping(extra, MAX_DEPTH)
    return plain, MAX_EXTRA_TEXT - max(0, budget.characters)


def plain_value(value: object, characters: int = MAX_TEXT, items: int = MAX_ITEMS) -> Any:
    """Any object as JSON data of at most `characters` and `items`; see `plain_extra`."""
    return _Budget(characters, items).value(value, MAX_DEPTH)


def encodable(value: object) -> Any:
    """Any object as JSON data, cut to what a batch of a backend may hold."""
    return plain_value(value, _BATCH_CHARACTERS, _BATCH_ITEMS)


def plain_tags(tags: Mapping[Any, Any]) -> dict[str, str]:
    """Tags as texts: long names and values are cut, and tags beyond `MAX_TAGS` are replaced by a mark."""
    plain: dict[str, str] = {}
    try:
        items, more = _first(tags.items(), MAX_TAGS, tags)
    except BaseException as broken:  # a user's mapping
        return {"…": f"[the tags could not be read: {class_name(type(broken))}]"}
    for name, value in items:
        plain[_unused(plain, text_of(name, MAX_NAME))] = text_of(value, MAX_TAG_TEXT)
    if more:
        plain[_unused(plain, "…")] = f"[{more} tags cut]"
    return plain


def kept_tags(tags: dict[Any, Any]) -> dict[str, str]:
    """Tags that were made plain earlier, unchanged: a second cut would state a wrong number of missing characters."""
    if len(tags) <= MAX_TAGS + 1:
        for name, value in tags.items():
            if type(name) is not str or len(name) > MAX_NAME + _MARK or not is_storable(name):
                break
            if type(value) is not str or len(value) > MAX_TAG_TEXT + _MARK or not is_storable(value):
                break
        else:
            return tags
    return plain_tags(tags)


def kept_extra(extra: dict[Any, Any]) -> dict[str, Any]:
    """The extra values of a log entry that were made plain earlier, bounded so that each mark stays as it is."""
    plain: dict[str, Any] = _Budget(MAX_EXTRA_TEXT + _MARK * MAX_ITEMS, 2 * MAX_ITEMS, _MARK).mapping(extra, MAX_DEPTH)
    return plain


class _Budget:
    """How much of a value may still be kept."""

    __slots__ = ("_name", "characters", "items")

    def __init__(self, characters: int, items: int, mark: int = 0) -> None:
        self.characters = characters
        self.items = items
        self._name = MAX_NAME + mark

    def value(self, value: Any, depth: int) -> Any:
        """The value as JSON data."""
        kind = type(value)
        if kind in _SCALARS:
            return value
        if issubclass(kind, str):
            return self._text(str.__str__(value))
        if issubclass(kind, int):
            number = int.__int__(value)
            return number if number.bit_length() <= _WIDEST_INTEGER else self._text(_written(number, self.characters))
        if issubclass(kind, float):
            real = float.__float__(value)
            return real if math.isfinite(real) else _word(real)
        if issubclass(kind, dict):
            return self.mapping(value, depth)
        if issubclass(kind, (list, tuple, set, frozenset)):
            return self._list(value, depth)
        if hasattr(kind, "__index__") and (index := plain_number(value)) is not None:
            return index
        if _is_mapping(value):
            return self.mapping(value, depth)
        return self._text(text_of(value, max(0, self.characters)))

    def mapping(self, value: Mapping[Any, Any], depth: int) -> Any:
        """The mapping as a JSON object, or as text if it cannot be read."""
        if depth == 0:
            return _TOO_DEEP
        plain: dict[str, Any] = {}
        try:
            entries = dict.items(value) if issubclass(type(value), dict) else value.items()  # type: ignore[arg-type]
            items, more = _first(entries, max(0, self.items), value)
            for key, item in items:
                if self.items <= 0:
                    more += 1
                    continue
                self.items -= 1
                name = _unused(plain, text_of(key, min(self._name, max(0, self.characters))))
                self.characters -= len(name)
                plain[name] = self.value(item, depth - 1)
        except BaseException as broken:  # a user's mapping, or one that another thread changes
            plain[_unused(plain, "…")] = f"[the rest could not be read: {class_name(type(broken))}]"
            return plain
        if more:
            plain[_unused(plain, "…")] = f"[{more} items cut]"
        return plain

    def _list(self, value: Iterable[Any], depth: int) -> Any:
        if depth == 0:
            return _TOO_DEEP
        plain: list[Any] = []
        try:
            base = next(base for base in (list, tuple, set, frozenset) if issubclass(type(value), base))
            items, more = _first(base.__iter__(value), max(0, self.items), value)  # type: ignore[arg-type]
            for item in items:
                if self.items <= 0:
                    more += 1
                    continue
                self.items -= 1
                plain.append(self.value(item, depth - 1))
        except BaseException as broken:  # a collection that another thread changes
            plain.append(f"[the rest could not be read: {class_name(type(broken))}]")
            return plain
        if more:
            plain.append(f"… [{more} items cut]")
        return plain

    def _text(self, text: str) -> str:
        plain = plain_text(text, max(0, self.characters))
        self.characters -= len(plain)
        return plain


def _first(values: Iterable[Any], limit: int, whole: Any) -> tuple[list[Any], int]:
    """The first values, and how many follow; 1 if that is unknown."""
    walk = iter(values)
    found = list(islice(walk, limit))
    if next(walk, walk) is walk:
        return found, 0
    for base in (dict, list, tuple, set, frozenset):
        if issubclass(type(whole), base):
            return found, base.__len__(whole) - limit
    return found, 1


def _unused(taken: Mapping[str, Any], name: str) -> str:
    """The name, or a variant that is not taken: two keys may have the same text."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    return free


def _is_mapping(value: object) -> bool:
    try:
        return isinstance(value, Mapping)
    except BaseException:  # `__class__` may be a property that raises
        return False


def _written(number: int, limit: int) -> str:
    bits = number.bit_length()
    if bits <= _DECIMAL_BITS:
        return plain_text(str(number), limit)
    if bits <= 4 * limit:
        return plain_text(hex(number), limit)
    return f"<an integer of {bits} bits>"


def _word(real: float) -> str:
    """The name of NaN or an infinity in the JSON mapping of Protocol Buffers."""
    return "NaN" if math.isnan(real) else "Infinity" if real > 0 else "-Infinity"
