"""One parameter of a task function: pydantic serialises and rebuilds its values by the annotation."""

from __future__ import annotations

import inspect
import json
import typing
from collections import deque
from collections.abc import Iterator
from dataclasses import is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from os import PathLike
from types import NoneType, SimpleNamespace, UnionType
from typing import Any
from uuid import UUID

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from taskflow_otel.model.equality import equal
from taskflow_otel.model.tagged import Tagged, UnstorableError, tag, type_name, untag

_ENUM = "enum"


class Parameter:
    """One parameter, with the pydantic adapter for its annotation."""

    __slots__ = (
        "_adapter", "_annotation", "_default", "_enums", "_namespace", "_others", "_scalars", "name", "required"
    )  # fmt: skip

    def __init__(self, parameter: inspect.Parameter, namespace: dict[str, Any]) -> None:
        self.name: str = parameter.name
        self.required: bool = parameter.default is parameter.empty
        self._annotation = parameter.annotation
        self._default = parameter.default
        self._namespace = namespace
        self._adapter: TypeAdapter[Any] | None = None
        self._enums: dict[str, type[Enum]] = {}
        self._scalars: frozenset[type] | None = None
        self._others = False
        """Whether the annotation also names types that pydantic may make from a scalar: enums, dates, literals."""

    @property
    def annotated(self) -> str:
        """The annotation as text, for messages."""
        return _show(self._annotation)

    @property
    def declared(self) -> str | None:
        """The annotation as text; `None` without one."""
        return None if self._annotation is inspect.Parameter.empty else _show(self._annotation)

    @property
    def scalars(self) -> frozenset[type]:
        """The plain JSON types of which the annotation allows every value."""
        if self._scalars is None:
            self._scalars, self._others = self._sort_annotation()
        return self._scalars

    def takes(self, value: Any) -> bool:
        """Whether the annotation allows a plain scalar, or pydantic can make an allowed value from it.

        An annotation that cannot be resolved, or that pydantic cannot use, allows everything.
        """
        if type(value) in self.scalars:
            return True
        if not self._others:
            return False
        try:
            adapter = self._type_adapter(UnstorableError("it is checked against its annotation"))
        except UnstorableError:
            return True
        try:
            adapter.validate_python(value)
        except Exception:  # validators are user code and may raise anything
            return False
        return True

    def from_json(self, value: Any) -> Any:
        """The argument that JSON data from a person means, by the annotation; without one, the data itself.

        Raises `UnstorableError` if the annotation does not allow it, or cannot be used to say so.
        """
        annotation = self._annotation
        if annotation is inspect.Parameter.empty or self._is_default(value):
            return value
        try:
            resolved = self._resolve()
        except Exception as exc:
            raise UnstorableError(f"its annotation {_show(annotation)} cannot be resolved here") from exc
        if resolved is Any or resolved is object:
            return value
        adapter = self._type_adapter(UnstorableError("it is checked against its annotation"))
        try:
            # Strict: a number in quotes is no number. As JSON, which has no dates, tuples or enums.
            return adapter.validate_json(json.dumps(value), strict=True, by_alias=True, by_name=True)
        except Exception as exc:  # validators are user code and may raise anything
            raise UnstorableError(f"it is not what its annotation {_show(annotation)} says: {explain(exc)}") from None

    def to_json(self, value: Any) -> Any:
        """The JSON data that `from_json` takes for an argument; raises `UnstorableError` if it has no such form."""
        adapter = self._type_adapter(UnstorableError("it is shown by its annotation"))
        try:
            return adapter.dump_python(value, mode="json", by_alias=False, warnings=False)
        except Exception as exc:  # serializers are user code and may raise anything
            raise UnstorableError(explain(exc)) from None

    def _is_default(self, value: Any) -> bool:
        """Whether it is the default, which is allowed even if the annotation does not say so: `name: str = None`."""
        return type(value) is type(self._default) and type(value) in _ANY_SCALAR and bool(value == self._default)

    def _sort_annotation(self) -> tuple[frozenset[type], bool]:
        annotation = self._annotation
        if annotation is not inspect.Parameter.empty:
            try:
                annotation = self._resolve()
            except Exception:  # names that exist only for type checkers
                annotation = inspect.Parameter.empty
        if self._default is not inspect.Parameter.empty and type(self._default) in _ANY_SCALAR:
            # The default is allowed even if the annotation does not say so: `name: str = None`.
            allowed, others = _scalars_of(annotation)
            return allowed | {type(self._default)}, others
        return _scalars_of(annotation)

    def _resolve(self) -> Any:
        holder = SimpleNamespace(__annotations__={self.name: self._annotation})
        return typing.get_type_hints(holder, globalns=self._namespace, include_extras=True)[self.name]

    def take_apart(self, value: Any, foreign: UnstorableError) -> Any:
        """Return the value as tagged data from which `put_together` makes the same value."""
        try:
            return self._taken_apart(value, foreign)
        except UnstorableError as exc:
            if isinstance(value, Iterator):
                raise UnstorableError(
                    "it can be read only once, and each attempt would read it. Pass what it yields as a list, or where "
                    "that is found: a path, an id"
                ) from exc.__cause__
            raise

    def _taken_apart(self, value: Any, foreign: UnstorableError) -> Any:
        adapter = self._type_adapter(foreign)
        candidates = []
        problem = ""
        # First without the unset fields, so that a model remembers which ones were set. Then with them, for a default
        # that is not the same each time, or that distinguishes the members of a union.
        for exclude_unset in (True, False):
            try:
                parts = adapter.dump_python(
                    value, round_trip=True, by_alias=False, exclude_unset=exclude_unset, warnings=False
                )
                stored = tag(parts, self._simplify)
                back = self.put_together(stored)
                if equal(value, back, strict=True):
                    return stored
                candidates.append((stored, back, equal(value, back, strict=False)))
            except Exception as exc:  # serializers and validators are user code and may raise anything
                problem = explain(exc)
        for stored, _, alike in candidates:
            if alike:
                return stored
        if candidates:
            raise UnstorableError(_difference(value, candidates[0][1], self._annotation))
        raise UnstorableError(
            f"{foreign}, and pydantic cannot store it by its annotation {_show(self._annotation)}"
            f"{f' ({problem})' if problem else ''}. Pass a value of the annotated type, or an id that the task "
            "looks up."
        )

    def put_together(self, stored: Any) -> Any:
        """Return the value that `take_apart` was given."""
        adapter = self._type_adapter(UnstorableError("it was stored by its annotation"))
        parts = untag(stored, {_ENUM: self._member})
        # Lax, because a dataclass is stored as a dict; by name, because the fields were stored by name.
        return adapter.validate_python(parts, strict=False, by_alias=False, by_name=True)

    def _simplify(self, value: Any) -> Any:
        """Return simpler data for a part of a value; the check that follows ensures that it reads back the same."""
        if isinstance(value, Enum) and not isinstance(value, Flag):
            if type(value) in self._enums.values():
                return Tagged(_ENUM, [type(value).__qualname__, value.name])
            return value.value
        for base in (dict, tuple, set, frozenset):
            if isinstance(value, base):
                return base(value)
        if isinstance(value, (list, deque)):
            return list(value)
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, PathLike):
            return value.__fspath__()
        return to_jsonable_python(value)

    def _member(self, stored: Any) -> Enum:
        kind, name = stored
        return self._enums[kind][name]

    def _type_adapter(self, foreign: UnstorableError) -> TypeAdapter[Any]:
        if self._adapter is not None:
            return self._adapter
        annotation = self._annotation
        if annotation is inspect.Parameter.empty:
            raise UnstorableError(
                f"{foreign}, and the parameter has no annotation. Annotate it with the type of the value, "
                "or pass an id that the task looks up."
            )
        try:
            resolved = self._resolve()
        except Exception as exc:
            raise UnstorableError(
                f"{foreign}, and its annotation {_show(annotation)} cannot be resolved ({_first_line(exc)}). "
                "Define or import the type at module level, not under TYPE_CHECKING and not inside a function."
            ) from exc
        if resolved is Any or resolved is object:
            raise UnstorableError(
                f"{foreign}, and the annotation {_show(resolved)} does not name its type. Annotate the parameter "
                "with the type of the value."
            )
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(resolved)
            self._enums = _enums(adapter.core_schema)
        except Exception as exc:  # errors of pydantic, and of a type's schema hooks
            raise UnstorableError(
                f"{foreign}, and pydantic cannot use its annotation {_show(resolved)} ({_first_line(exc)}). "
                "Pass plain data, a dataclass or a pydantic model, or an id that the task looks up."
            ) from exc
        self._adapter = adapter
        return adapter


_ANY_SCALAR: frozenset[type] = frozenset({str, int, float, bool, NoneType})
_WIDENED: dict[Any, frozenset[type]] = {
    str: frozenset({str}),
    int: frozenset({int, bool}),
    # For type checkers, an int is also a float (PEP 484).
    float: frozenset({float, int, bool}),
    complex: frozenset({float, int, bool}),
    bool: frozenset({bool}),
    None: frozenset({NoneType}),
    NoneType: frozenset({NoneType}),
}
_CONTAINERS = (dict, list, set, frozenset, tuple)
_FROM_SCALARS = (Enum, BaseModel, date, time, timedelta, UUID, Decimal, bytes, *_CONTAINERS)


def _scalars_of(annotation: Any) -> tuple[frozenset[type], bool]:
    """The scalar types that an annotation allows without a check, and whether pydantic must check other scalars."""
    if annotation in _WIDENED:
        return _WIDENED[annotation], False
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _scalars_of(typing.get_args(annotation)[0])
    if origin in (typing.Union, UnionType):
        parts = [_scalars_of(item) for item in typing.get_args(annotation)]
        allowed: frozenset[type] = frozenset(kind for part in parts for kind in part[0])
        return allowed, any(part[1] for part in parts)
    if origin is typing.Literal or origin in _CONTAINERS:
        return frozenset(), True
    if isinstance(annotation, type) and (issubclass(annotation, _FROM_SCALARS) or is_dataclass(annotation)):
        return frozenset(), True
    if isinstance(annotation, typing.NewType):
        return _scalars_of(annotation.__supertype__)
    # Protocols, abstract classes, type variables, user classes: they may include scalars.
    return _ANY_SCALAR, False


def _enums(schema: Any) -> dict[str, type[Enum]]:
    """Return the enum classes in an annotation, including the fields of its models and dataclasses.

    Members are stored by class and name, and looked up here: stored data can name no other class. The bare value would
    not be enough: it also fits the `str` of `Colour | str`, and does not fit `Literal[Colour.RED]`.
    """
    found: dict[str, type[Enum]] = {}
    seen: set[int] = set()
    left = [schema]
    while left:
        node = left.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Enum):
            found[type(node).__qualname__] = type(node)
        elif isinstance(node, type) and issubclass(node, Enum):
            found[node.__qualname__] = node
        elif isinstance(node, dict):
            left.extend(node.values())
        elif isinstance(node, (list, tuple)):
            left.extend(node)
    return found


def explain(exc: Exception) -> str:
    """Describe an error without the value: arguments may be secret, and errors are stored and logged."""
    if isinstance(exc, ValidationError):
        details = exc.errors(include_url=False, include_context=False, include_input=False)
        return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'value'}: {item['msg']}" for item in details[:3])
    return type(exc).__name__


def _difference(value: Any, back: Any, annotation: object) -> str:
    if type(value) is not type(back):
        return (
            f"by its annotation {_show(annotation)} it would come back as a {type_name(type(back))}. "
            f"Annotate the parameter with {type_name(type(value))}, or convert the value before."
        )
    return (
        f"by its annotation {_show(annotation)} it would come back different. Common causes: a secret or excluded "
        "field, a validator that changes its input, a subclass or a union member that the annotation does not "
        "distinguish, a class without __eq__. Pass plain data, or an id that the task looks up."
    )


def _first_line(exc: Exception) -> str:
    """Describe the error of an annotation. It holds no value, so the message may be shown."""
    return str(exc).partition("\n")[0] or type(exc).__name__


def _show(annotation: object) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
