"""The messages between the process executor and its children: calls one way, reports the other.

The pipe is private to two processes of one program, so it carries pickle.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import pickle  # nosec B403  # for messages between a process and its own children
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import FunctionType, ModuleType
from typing import Any

from taskflow_otel.engine.executors.process_spans import FinishedSpan
from taskflow_otel.engine.failure import Failure
from taskflow_otel.engine.registry import describe
from taskflow_otel.errors import MissingExtraError, TaskArgumentError
from taskflow_otel.model.record import Progress
from taskflow_otel.model.stack import Place
from taskflow_otel.model.trace import SpanRef

HEAD = struct.Struct("!Q")
"""The length of the message that follows."""

MAX_EXCEPTION_BYTES = 262_144
"""An exception that takes more than this comes back without its attributes."""


@dataclass(frozen=True, slots=True)
class FunctionReference:
    """How a child finds a function: by import, or as the function itself, pickled by value."""

    module: str = ""
    qualname: str = ""
    unwrap: int = 0
    """How many decorators above `task` are between that name and the function."""
    file: str | None = None
    """The file of the module, if it cannot be imported by name (some test runners make such modules)."""
    value: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PackedCall:
    """A function and its arguments, ready to send: arguments as the codec's text, or pickled."""

    function: FunctionReference
    arguments: str | bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Setup:
    """To the child: the settings of its process. Sent once, first."""

    argv: list[str]
    capture_logs: bool
    log_level: int
    """Of the root logger."""


@dataclass(frozen=True, slots=True)
class Load:
    """To the child: import a function; answered by `Loaded`, also after a failure."""

    function: FunctionReference | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """To the child: run an attempt."""

    number: int
    """Number of the attempt in this child; the child's messages carry it back."""
    call: PackedCall
    task_id: str
    func_name: str
    attempt: int
    tags: Mapping[str, str]
    carrier: dict[str, str]
    """W3C headers: the attempt's span, and baggage."""


@dataclass(frozen=True, slots=True)
class Stop:
    """To the child: ask the running function to stop, and exit after it."""


@dataclass(frozen=True, slots=True)
class Look:
    """To the child: say where the attempt is; answered by `Seen`, unless it has ended."""

    number: int


@dataclass(frozen=True, slots=True)
class Seen:
    """From the child: where the attempt is, the outermost place first."""

    number: int
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """From the child: ready."""


@dataclass(frozen=True, slots=True)
class Said:
    """From the child: a log entry, with the span that was current."""

    number: int
    message: str
    level: str
    extra: dict[str, Any]
    size: int
    """Characters of message and extra together."""
    span: SpanRef
    exported: bool
    """OpenTelemetry gets it from the child."""


@dataclass(frozen=True, slots=True)
class Progressed:
    """From the child: the progress of the attempt."""

    number: int
    progress: Progress


@dataclass(frozen=True, slots=True)
class Spanned:
    """From the child: a span of user code has ended."""

    span: FinishedSpan


@dataclass(frozen=True, slots=True)
class ChildFailure:
    """An exception as it is sent: its description, and the object itself if it can travel."""

    description: Failure
    pickled: bytes | None
    ancestry: tuple[tuple[str, str], ...]
    """Module and qualified name of its class and the bases, nearest first."""


@dataclass(frozen=True, slots=True)
class Ended:
    """From the child: the attempt is over."""

    number: int
    failure: ChildFailure | None


def frame(message: object) -> bytes:
    """The bytes of one message."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return HEAD.pack(len(body)) + body


FromChild = Said | Seen | Progressed | Spanned | Ended | Loaded
"""What a child says to its parent."""


def unframe(body: bytes) -> Any:
    """The message of a frame's body."""
    return pickle.loads(body)  # noqa: S301  # nosec B301  # our own other half wrote it


def pack_call(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], payload: str | None
) -> PackedCall:
    """Prepare a call to be sent; `payload` is the codec's text of the arguments, if the codec could write them.

    Raises `TaskArgumentError` for arguments that cannot be sent to another process, and `MissingExtraError` for
    what only cloudpickle can send: lambdas, closures, and definitions of `__main__`.
    """
    function = importable(func)
    if function is not None:
        if payload is not None:
            return PackedCall(function, payload)
    else:
        function = FunctionReference(value=_pickled(func, f"the function {describe(func)}"))
    # A function that travels by value may lose the names in its annotations, so the codec cannot be used.
    return PackedCall(function, _pickled((args, dict(kwargs)), f"the arguments of {describe(func)}"))


def importable(func: Callable[..., Any]) -> FunctionReference | None:
    """How to import a function; `None` if it cannot be imported, or must not (`__main__` would run again)."""
    module, qualname = getattr(func, "__module__", None), getattr(func, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str) or module == "__main__":
        return None
    home: Any = sys.modules.get(module)
    found = home
    for name in qualname.split("."):
        found = getattr(found, name, None)
    unwrap = 0
    while found is not None and found is not func:
        found = getattr(found, "__wrapped__", None)
        unwrap += 1
    if found is None:
        return None
    return FunctionReference(module, qualname, unwrap, getattr(home, "__file__", None))


def load_function(reference: FunctionReference) -> Callable[..., Any]:
    """The function of a reference, in the child; raises the errors of importing its module."""
    if reference.value is not None:
        return unframe(reference.value)  # type: ignore[no-any-return]  # pickle gives back the function that it was given
    try:
        found: Any = importlib.import_module(reference.module)
    except ModuleNotFoundError as exc:
        if reference.file is None or not f"{reference.module}.".startswith(f"{exc.name}."):
            raise
        found = _module_from_file(reference.module, reference.file)
    for name in reference.qualname.split("."):
        found = getattr(found, name)
    for _ in range(reference.unwrap):
        found = found.__wrapped__
    return found  # type: ignore[no-any-return]  # `importable` has found the function by this very way


def _module_from_file(name: str, file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"no module named {name!r}, and {file} cannot be loaded", name=name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class _Pickler(pickle.Pickler):
    """Refuses objects of `__main__`, which is another module in the child."""

    latest: object = None

    def reducer_override(self, obj: Any) -> Any:
        self.latest = obj
        if isinstance(obj, (type, FunctionType)) and obj.__module__ == "__main__":
            raise pickle.PicklingError(f"{obj.__qualname__} is defined in __main__")
        return NotImplemented


def _pickled(value: object, what: str) -> bytes:
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, pickle.HIGHEST_PROTOCOL)
    try:
        pickler.dump(value)
    except Exception as exc:  # pickling calls user code, which may raise anything
        reason = exc
    else:
        return buffer.getvalue()
    try:
        import cloudpickle
    except ImportError:
        if isinstance(pickler.latest, (type, FunctionType)):
            raise MissingExtraError(f"sending {what} to a process ({reason})", "process") from None
        raise _unsendable(what, reason) from reason
    try:
        pickled: bytes = cloudpickle.dumps(value)
    except Exception as exc:
        raise _unsendable(what, exc) from exc
    return pickled


def _unsendable(what: str, reason: Exception) -> TaskArgumentError:
    return TaskArgumentError(
        f"{what} cannot be sent to a process ({type(reason).__name__}: {reason}). Pass plain data, an id or a path, "
        "and open connections, locks and files inside the task; or use executor='thread'."
    )


def pack_failure(exc: BaseException, description: Failure) -> ChildFailure:
    """Prepare an exception to be sent back."""
    try:
        pickled = pickle.dumps(exc, pickle.HIGHEST_PROTOCOL)
    except BaseException:  # it may hold a socket, be of a local class, or pickle itself wrongly
        pickled = b""
    ancestry = tuple((cls.__module__, cls.__qualname__) for cls in type(exc).__mro__ if issubclass(cls, BaseException))
    return ChildFailure(
        replace(description, exception=None), pickled if 0 < len(pickled) <= MAX_EXCEPTION_BYTES else None, ancestry
    )


class _KnownOnly(pickle.Unpickler):
    """Imports nothing: code here cannot name a class that was not imported, and an import takes time."""

    def find_class(self, module: str, name: str) -> Any:
        if module not in sys.modules:
            raise pickle.UnpicklingError(f"{module} is not imported here")
        return super().find_class(module, name)


def revive(failure: ChildFailure) -> BaseException:
    """The exception of the child: the object itself, or one of its class, or of the nearest base known here.

    So `retry_on` and `no_retry_on` see the real class even if the object could not travel.
    """
    if failure.pickled is not None:
        try:
            exc = _KnownOnly(io.BytesIO(failure.pickled)).load()
        except BaseException:  # constructors are user code, and a SystemExit would end the event loop
            exc = None
        if isinstance(exc, BaseException):
            return exc
    for module, qualname in failure.ancestry:
        cls: Any = sys.modules.get(module)
        for name in qualname.split("."):
            cls = getattr(cls, name, None)
        if isinstance(cls, type) and issubclass(cls, BaseException):
            stand_in = _without_init(cls, failure.description.error)
            if stand_in is not None:
                return stand_in
    return RuntimeError(failure.description.error)


def _without_init(cls: type[BaseException], message: str) -> BaseException | None:
    """An instance made without `__init__`, whose arguments are unknown; `None` if the class refuses that."""
    try:
        instance = cls.__new__(cls)
        instance.args = (message,)
    except BaseException:  # `__new__` may be user code
        return None
    return instance
