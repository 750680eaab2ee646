"""The arguments of a task as JSON, and back as the same values.

Values of the standard types describe themselves (`taskflow_otel.model.tagged`). Other values (enums, dataclasses,
pydantic models, named tuples, …) are serialised and rebuilt by pydantic, according to the parameter's annotation. Each
value is read back when it is encoded. So a task that cannot be stored fails in its caller, not after a restart.

The format, version 1: `{"v": 1, "names": [...], "args": [...], "kwargs": {...}}`, in ASCII. Only the given arguments
are stored; defaults are those of the function when it runs. `names` are the parameters of the first `args`, so that
parameters may change places while tasks wait. Payloads without names are read by position.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring_ascii
from types import NoneType
from typing import Any, NamedTuple

import msgspec

from taskflow_otel.errors import TaskArgumentError
from taskflow_otel.model.cipher import is_encrypted
from taskflow_otel.model.hiding import repr_without
from taskflow_otel.model.parameter import Parameter, explain
from taskflow_otel.model.tagged import TAG, TooDeepError, UnstorableError, readable, tag, type_name, untag

FORMAT_VERSION = 1
MAX_PAYLOAD_BYTES = 1_048_576
"""The largest size of the encoded arguments of one task, in bytes."""

_NO_ARGUMENTS = '],"kwargs":{}}'
_TYPED = "typed"
_AS_GIVEN = "given"
"""A plain value that its annotation did not allow when it was stored."""
_KEYWORD_ONLY = sys.maxsize

# ASCII, so that the character set of a backend does not matter, and lone surrogates and NUL survive. NaN and the
# infinities are not JSON; they are stored as tagged values.
_dumps = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":")).encode


class Given(NamedTuple):
    """A parameter of a function, and what a stored call gives it."""

    name: str
    parameter: Parameter
    given: bool
    value: Any
    """The argument as JSON data; without a meaning unless `given`."""

    def __repr__(self) -> str:
        return repr_without(self, "value")


class Codec:
    """Encodes and decodes the arguments of one function. Built once, at decoration; safe to use from any thread.

    `name` is the task's name in errors; `max_bytes` caps the encoded size. An annotation is resolved when a value first
    needs it, so it may use names that are defined later, or only for type checkers.
    """

    __slots__ = (
        "_by_keyword", "_keyword_required", "_max_bytes", "_name", "_parameters", "_positional", "_required",
        "_signature", "_starts", "_var_keyword", "_var_positional", "_without_arguments",
    )  # fmt: skip

    def __init__(
        self, func: Callable[..., Any], *, name: str | None = None, max_bytes: int = MAX_PAYLOAD_BYTES
    ) -> None:
        self._name = name or getattr(func, "__qualname__", None) or repr(func)
        self._max_bytes = max_bytes
        self._signature = _signature(func)
        namespace = _namespace(func)
        declared = list(self._signature.parameters.values())
        self._parameters = {item.name: Parameter(item, namespace) for item in declared}
        self._positional = [
            item.name for item in declared if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)
        ]
        self._required = sum(self._parameters[item].required for item in self._positional)
        self._keyword_required = frozenset(
            item.name for item in declared if item.kind is item.KEYWORD_ONLY and item.default is item.empty
        )
        self._by_keyword = {
            item.name: _KEYWORD_ONLY if item.kind is item.KEYWORD_ONLY else self._positional.index(item.name)
            for item in declared
            if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)
        }
        self._starts = [
            f'{{"v":{FORMAT_VERSION},"names":{_dumps(self._positional[:given])},"args":['
            for given in range(len(self._positional) + 1)
        ]
        """The start of a payload, by the number of positional arguments."""
        self._var_positional = next((item.name for item in declared if item.kind is item.VAR_POSITIONAL), "")
        self._var_keyword = next((item.name for item in declared if item.kind is item.VAR_KEYWORD), "")
        self._without_arguments = self._starts[0] + _NO_ARGUMENTS if self._binds((), {}) else None
        """The payload of a call without arguments; `None` if there is no such call."""

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raise `TaskArgumentError`, a `TypeError`, if the function cannot be called with these arguments."""
        if (not args and not kwargs and self._without_arguments is not None) or self._binds(args, kwargs):
            return
        problem = "they do not fit its parameters"
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as exc:
            problem = str(exc)
        raise TaskArgumentError(f"{self._name}() cannot be called with these arguments: {problem}")

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Return the arguments as JSON text, a snapshot that later changes do not affect.

        Raises `TaskArgumentError` if the function cannot be called with them, if one of them would change when it is
        read back, or if they are too large.
        """
        self.check(args, kwargs)
        return self.encode_checked(args, kwargs)

    def encode_checked(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Encode arguments that `check` has accepted."""
        if not args and not kwargs:
            return self._without_arguments or self._starts[0] + _NO_ARGUMENTS
        try:
            payload = self._encode_scalars(args, kwargs)
        except (KeyError, ValueError):  # another type, a number that is not finite, or a very long integer
            payload = self._encode_values(args, kwargs)
        if len(payload) > self._max_bytes:
            raise TaskArgumentError(
                f"the arguments of {self._name} take {len(payload):,} bytes, more than the {self._max_bytes:,} "
                "allowed for one task. Keep the data elsewhere and pass its id, key or path."
            )
        return payload

    def decode(self, payload: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments that `encode` was given.

        Raises `TaskArgumentError` if the payload is still encrypted, was written by a newer version, or no longer fits
        the function.
        """
        if payload == self._without_arguments:
            return (), {}
        names, stored_args, stored_kwargs = _parse(payload, f"of {self._name}")
        if names != self._positional[: len(names)]:
            stored_args, stored_kwargs = self._place(names, stored_args, stored_kwargs)
        try:
            self.check(tuple(stored_args), stored_kwargs)
        except TaskArgumentError as exc:
            raise TaskArgumentError(f"{exc}. The function has changed since this task was stored.") from None
        for index, item in enumerate(stored_args):
            stored_args[index] = self._decode_value(*self._parameter_at(index), item)
        for key, item in stored_kwargs.items():
            stored_kwargs[key] = self._decode_value(*self._parameter_for(key), item)
        return tuple(stored_args), stored_kwargs

    def revise(self, payload: str, changes: Mapping[str, Any]) -> str:
        """The payload with other values for some parameters, given as JSON data by the names of the parameters.

        The other arguments stay exactly as they were. Raises `TaskArgumentError` as `decode` and `encode` do, and if a
        value is not what the annotation of its parameter says, or the function has no parameter of a name.
        """
        args, kwargs = self.decode(payload)
        values = list(args)
        for name, value in changes.items():
            if name not in self._positional and name not in self._by_keyword and not self._var_keyword:
                raise TaskArgumentError(f"{self._name} has no parameter {name!r} that can be given by its name")
            try:
                argument = self._parameter_for(name, positional=True)[0].from_json(value)
            except UnstorableError as exc:
                raise TaskArgumentError(f"the argument {name!r} of {self._name} cannot be changed so: {exc}") from None
            place = self._positional.index(name) if name in self._positional else len(values) + 1
            if place < len(values):
                values[place] = argument
            elif place == len(values) and name not in self._by_keyword:
                values.append(argument)
            else:
                kwargs[name] = argument
        return self.encode(tuple(values), kwargs)

    def form(self, payload: str | None) -> list[Given]:
        """The parameters that have names, with the stored arguments (`None`: unknown). Raises as `decode` does."""
        values: dict[str, Any] = {}
        if payload is not None:
            args, kwargs = self.decode(payload)
            values = dict(zip(self._positional, args, strict=False)) | kwargs
        declared = [name for name in self._parameters if name not in (self._var_positional, self._var_keyword)]
        names = declared + [name for name in values if name not in declared]
        found = [(name, self._parameter_for(name, positional=True)[0]) for name in names]
        return [
            Given(name, parameter, name in values, _for_people(parameter, values.get(name)))
            for name, parameter in found
        ]

    def _place(self, names: list[str], args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Give positional arguments to the parameters of their stored names, even if these have changed places."""
        named = dict(zip(names, args, strict=False))
        rest = args[len(names) :]
        placed = []
        for name in self._positional:
            if name not in named:
                break
            placed.append(named.pop(name))
        unknown = [name for name in named if name not in self._by_keyword]
        if unknown or (rest and (named or len(placed) < len(self._positional))):
            what = f"it has no parameter {unknown[0]!r} that could take" if unknown else "its parameters cannot take"
            raise TaskArgumentError(
                f"{self._name}() cannot be called with these arguments: {what} what was stored. "
                "The function has changed since this task was stored."
            )
        return placed + rest, named | kwargs

    def _binds(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether the arguments fit. `Signature.bind` takes ten times as long."""
        given = len(args)
        if given > len(self._positional) and not self._var_positional:
            return False
        if not kwargs:
            return given >= self._required and not self._keyword_required
        for key in kwargs:
            position = self._by_keyword.get(key)
            if position is None:
                if not self._var_keyword:
                    return False
            elif position < given:
                return False
        missing = self._positional[given : self._required]
        return all(item in kwargs and item in self._by_keyword for item in missing) and (
            self._keyword_required <= kwargs.keys()
        )

    def _parameter_at(self, index: int) -> tuple[Parameter, str]:
        """Return the parameter at this position, and the argument's name in errors."""
        if index < len(self._positional):
            name = self._positional[index]
            return self._parameters[name], name
        return self._parameters[self._var_positional], f"{self._var_positional}[{index - len(self._positional)}]"

    def _parameter_for(self, key: str, *, positional: bool = False) -> tuple[Parameter, str]:
        named = key in self._by_keyword or (positional and key in self._positional)
        return self._parameters[key if named else self._var_keyword], key

    def _encode_values(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        return _dumps(
            {
                "v": FORMAT_VERSION,
                "names": self._positional[: len(args)],
                "args": [self._encode_value(*self._parameter_at(index), value) for index, value in enumerate(args)],
                "kwargs": {key: self._encode_value(*self._parameter_for(key), value) for key, value in kwargs.items()},
            }
        )

    def _encode_scalars(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Return the payload of values that are all plain scalars, as for most tasks; every `add_task` needs this.

        Raises `KeyError` or `ValueError` for another value, or one that its annotation does not allow. This code takes
        a third of the time of `json.dumps`.
        """
        for name, value in zip(self._positional, args, strict=False):
            if type(value) not in self._parameters[name].scalars:
                raise KeyError(name)
        text = self._starts[min(len(args), len(self._positional))]
        text += ",".join([_SCALARS[type(value)](value) for value in args]) + '],"kwargs":{'
        if kwargs:
            for key, value in kwargs.items():
                if type(value) not in self._parameter_for(key)[0].scalars:
                    raise KeyError(key)
            text += ",".join(
                [f"{encode_basestring_ascii(key)}:{_SCALARS[type(value)](value)}" for key, value in kwargs.items()]
            )
        return text + "}}"

    def _encode_value(self, parameter: Parameter, label: str, value: Any) -> Any:
        try:
            stored = tag(value)
            # Python allows any value for any annotation. The tag marks that it did not fit when it was stored.
            return {TAG: _AS_GIVEN, "v": stored} if type(value) in _SCALARS and not parameter.takes(value) else stored
        except TooDeepError as exc:
            reason: UnstorableError = exc
        except UnstorableError as foreign:
            try:
                return {TAG: _TYPED, "v": parameter.take_apart(value, foreign)}
            except UnstorableError as exc:
                reason = exc
        raise TaskArgumentError(
            f"the argument {label!r} of {self._name}, of type {type_name(type(value))}, cannot be stored: {reason}"
        ) from reason.__cause__

    def _decode_value(self, parameter: Parameter, label: str, node: Any) -> Any:
        kind = type(node)
        if kind in _SCALARS:
            if kind in parameter.scalars or parameter.takes(node):
                return node
            raise TaskArgumentError(
                f"the stored argument {label!r} of {self._name} is of type {kind.__name__}, which is not what its "
                f"annotation says ({parameter.annotated}). The function has changed since this task was stored."
            )
        try:
            if type(node) is dict:
                if node.get(TAG) == _TYPED:
                    return parameter.put_together(node["v"])
                if node.get(TAG) == _AS_GIVEN:
                    return untag(node["v"])
            return untag(node)
        except UnstorableError as exc:
            raise TaskArgumentError(
                f"the stored argument {label!r} of {self._name} cannot be read back: {exc}"
            ) from exc.__cause__
        except Exception as exc:  # validators are user code and may raise anything
            raise TaskArgumentError(
                f"the stored argument {label!r} of {self._name} cannot be read back ({explain(exc)}). "
                "Has its type changed since this task was stored?"
            ) from None


def _for_people(parameter: Parameter, value: Any) -> Any:
    """An argument as JSON data, by its annotation where that says how."""
    if type(value) in _SCALARS:
        return value
    try:
        return parameter.to_json(value)
    except UnstorableError:
        pass
    try:
        return readable(tag(value), numbers=True)
    except UnstorableError:
        return None


def _write_float(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError
    return float.__repr__(value)


_SCALARS: dict[type, Callable[[Any], str]] = {
    str: encode_basestring_ascii,
    int: int.__repr__,
    float: _write_float,
    bool: {True: "true", False: "false"}.__getitem__,
    NoneType: {None: "null"}.__getitem__,
}


def readable_arguments(payload: str, *, numbers: bool = False) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a plain payload as JSON for people: without types, and without the function.

    `numbers`: see `tagged.readable`.

    Raises `TaskArgumentError` for a payload that is encrypted or cannot be read.
    """
    _, args, kwargs = _parse(payload, "of this task")
    return (
        [readable(item, numbers=numbers) for item in args],
        {key: readable(item, numbers=numbers) for key, item in kwargs.items()},
    )


def arguments_by_name(payload: str) -> dict[str, Any]:
    """The same by the names of the parameters, with numbers as what they are; what `*args` took is under `*`."""
    return {key: readable(item, numbers=True) for key, item in argument_nodes(payload)[0].items()}


def argument_nodes(payload: str) -> tuple[dict[str, Any], list[Any]]:
    """The stored arguments by name, as in `arguments_by_name`, and those given by position; `tagged.readable` reads
    each. Raises as `readable_arguments` does."""
    names, args, kwargs = _parse(payload, "of this task")
    named = dict(zip(names, args, strict=False)) | kwargs
    if rest := args[len(names) :]:
        named["*"] = rest
    return named, args


def _loads(text: str) -> Any:
    """The same as `json.loads`, in a seventh of its time."""
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        # An integer of more than 4,300 digits or a lone surrogate, which only the standard library reads; or damage.
        return json.loads(text)


def _parse(payload: str, whose: str) -> tuple[list[str], list[Any], dict[str, Any]]:
    if is_encrypted(payload):
        raise TaskArgumentError(
            f"the stored arguments {whose} are encrypted, and this process has no key: "
            "give it TaskManager(encrypt_args_key=...) with the key that encrypted them."
        )
    try:
        document = _loads(payload)
        version, args, kwargs = document["v"], document["args"], document["kwargs"]
        names = document.get("names", [])
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise TaskArgumentError(f"the stored arguments {whose} are damaged: {type(exc).__name__}: {exc}") from exc
    if version != FORMAT_VERSION:
        raise TaskArgumentError(
            f"the stored arguments {whose} have format {version!r}, this taskflow-otel knows {FORMAT_VERSION}. "
            "Upgrade taskflow-otel in this process."
        )
    return names, args, kwargs


def _signature(func: Callable[..., Any]) -> inspect.Signature:
    try:
        if sys.version_info >= (3, 14):
            import annotationlib

            # This format accepts annotations with names that do not exist yet.
            return inspect.signature(func, annotation_format=annotationlib.Format.FORWARDREF)
        return inspect.signature(func)
    except ValueError:
        # Some functions written in C have no signature: all arguments are passed on.
        return inspect.Signature(
            [
                inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
                inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
            ]
        )


def _namespace(func: Callable[..., Any]) -> dict[str, Any]:
    """Return the globals of the module in which the annotations were written."""
    target: Any = func
    while isinstance(target, functools.partial):
        target = target.func
    target = inspect.unwrap(target)
    if not hasattr(target, "__globals__"):
        target = inspect.unwrap(getattr(target, "__func__", None) or type(target).__call__)
    namespace: dict[str, Any] = getattr(target, "__globals__", {})
    return namespace
