"""A filter of tasks by their arguments: conditions on what people are shown of the stored arguments.

Arguments are stored encoded, and no index contains them: to filter by them is to read tasks one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from taskflow_otel.errors import TaskArgumentError
from taskflow_otel.model.payload import argument_nodes
from taskflow_otel.model.tagged import readable

MOST_CONDITIONS = 10
_PART = re.compile(r"""(?:([^\s:="]+)[:=])?(?:"([^"]*)"|([^\s"]\S*))(?=\s|$)""")
_MOST_BITS = 13_000
"""Python writes no integer of more than 4,300 digits."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One argument has this value.

    `path`: the name or the position of a parameter, and what follows inside it: keys of dicts, positions in lists.
    Without a path, any value at any depth is meant. A list has the value if one of its items has it.
    """

    path: tuple[str, ...]
    value: str


@dataclass(frozen=True, slots=True)
class ArgumentFilter:
    """All conditions must hold."""

    conditions: tuple[Condition, ...]

    def matches(self, payload: str | None) -> bool | None:
        """Whether stored arguments match; `None` if they cannot be read: unknown, encrypted or damaged."""
        if payload is None:
            return None
        try:
            by_name, by_position = argument_nodes(payload)
            return all(_meets(by_name, by_position, condition) for condition in self.conditions)
        except (TaskArgumentError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            # One damaged row must not end a search.
            return None


def read_argument_filter(text: str) -> ArgumentFilter:
    """The filter that a text means: `name:value`, or `value` of any argument; several, with spaces between.

    A value with spaces, or one without a name that has a colon or an equals sign, is put in double quotes. Raises
    `ValueError` with a sentence.
    """
    conditions: list[Condition] = []
    place = 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        part = _PART.match(text, place)
        if part is None or (part[1] is None and re.search("[:=]", part[3] or "")):
            raise ValueError(
                'an argument is written name:value, such as order:782 or customer.name:"Ada Lovelace", '
                f"and not {text[place:][:100]!r}"
            )
        name, quoted, plain = part.groups()
        path = () if name is None else tuple(name.split("."))
        if "" in path:
            raise ValueError(f"{name!r} is not the name of an argument, such as order or customer.name")
        conditions.append(Condition(path, plain if quoted is None else quoted))
        place = part.end()
    if not 0 < len(conditions) <= MOST_CONDITIONS:
        raise ValueError(f"give 1 to {MOST_CONDITIONS} arguments, not {len(conditions)}")
    return ArgumentFilter(tuple(conditions))


def _meets(by_name: dict[str, Any], by_position: list[Any], condition: Condition) -> bool:
    path, wanted = condition.path, condition.value
    if not path:
        return any(_says(value, wanted) for node in by_name.values() for value in _values(readable(node, numbers=True)))
    if _in_dict(by_name, path, wanted, stored=True):
        return True
    place = _position(path[0], by_position)
    return place is not None and _holds(readable(by_position[place], numbers=True), path[1:], wanted)


def _holds(value: Any, path: tuple[str, ...], wanted: str) -> bool:
    if isinstance(value, dict):
        return bool(path) and _in_dict(value, path, wanted)
    if not isinstance(value, list):
        return not path and _says(value, wanted)
    if not path:
        return any(_says(item, wanted) for item in value)
    place = _position(path[0], value)
    if place is not None and _holds(value[place], path[1:], wanted):
        return True
    return any(_holds(item, path, wanted) for item in value if isinstance(item, dict))


def _in_dict(found: dict[str, Any], path: tuple[str, ...], wanted: str, *, stored: bool = False) -> bool:
    for end in range(1, len(path) + 1):
        # A key may contain a dot.
        key = ".".join(path[:end])
        if key in found:
            value = readable(found[key], numbers=True) if stored else found[key]
            if _holds(value, path[end:], wanted):
                return True
    return False


def _position(text: str, items: list[Any]) -> int | None:
    # Longer texts are no positions, and slow to read.
    if len(text) > 9 or not (text.isascii() and text.isdecimal()) or int(text) >= len(items):
        return None
    return int(text)


def _values(value: Any) -> Iterator[Any]:
    """The values at any depth that are neither lists nor dicts."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
        else:
            yield one


def _says(value: Any, wanted: str) -> bool:
    """Whether a value is written so. JSON writes some values differently from Python; both are understood."""
    if isinstance(value, str):
        return value == wanted
    if value is None:
        return wanted.lower() in {"null", "none"}
    if isinstance(value, bool):
        return wanted.lower() == str(value).lower()
    if isinstance(value, int):
        return value.bit_length() <= _MOST_BITS and str(value) == wanted
    if isinstance(value, float):
        return wanted in {repr(value), _FLOATS.get(repr(value))}
    return False


_FLOATS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
