"""What runs in a child of the process executor: one attempt at a time, in the main thread."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import inspect
import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn, assert_never

from opentelemetry import _logs, trace
from opentelemetry import context as otel_context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from taskflow_otel.compat.coroutines import suspended_frames
from taskflow_otel.compat.threads import frame_of
from taskflow_otel.engine.context import TaskContext, enter_task_context
from taskflow_otel.engine.executors.process_protocol import (
    HEAD,
    Attempt,
    Ended,
    FunctionReference,
    Load,
    Loaded,
    Look,
    Progressed,
    Said,
    Seen,
    Setup,
    Spanned,
    Stop,
    frame,
    load_function,
    pack_failure,
    unframe,
)
from taskflow_otel.engine.executors.process_spans import FinishedSpan, RecordingTracerProvider, reference
from taskflow_otel.engine.failure import describe_failure
from taskflow_otel.engine.log_capture import TaskLogHandler
from taskflow_otel.exporters.otel.tracing import TASK_ID_KEY
from taskflow_otel.model.payload import Codec
from taskflow_otel.model.record import Progress
from taskflow_otel.model.stack import place_of

_PR_SET_PDEATHSIG = 1
_FLUSH_MILLISECONDS = 5_000


def main(fd: int) -> None:
    """Serve the parent at the other end of the socket `fd` until it says stop."""
    child = _Child(socket.socket(fileno=fd))
    child.serve()


class _Child:
    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent
        self._sending = threading.Lock()
        self._silent = False
        self._stopping = False
        self._messages: queue.SimpleQueue[Setup | Load | Attempt | None] = queue.SimpleQueue()
        self._context: TaskContext | None = None
        self._number = 0
        """That of the attempt."""
        self._on_loop: asyncio.Task[None] | None = None
        self._functions: dict[FunctionReference, tuple[Callable[..., Any], Codec]] = {}
        self._tracing = RecordingTracerProvider(self._spanned)
        self._ended = threading.Event()
        self._flusher: threading.Thread | None = None

    def serve(self) -> None:
        """Run the attempts that arrive, one after the other."""
        # Ctrl-C and a service manager's SIGTERM reach the whole process group, but the parent decides what ends.
        # Handlers and not SIG_IGN: the programs that a task starts would inherit SIG_IGN.
        signal.signal(signal.SIGINT, _ignore)
        signal.signal(signal.SIGTERM, self._terminate)
        os.register_at_fork(after_in_child=self._forked)
        _die_with_parent()
        threading.Thread(target=self._listen, name="taskflow-parent", daemon=True).start()
        while (message := self._messages.get()) is not None:
            match message:
                case Setup():
                    self._set_up(message)
                case Load():
                    self._load_ahead(message)
                case Attempt():
                    self._run(message)
                case _:
                    assert_never(message)

    def _listen(self) -> NoReturn:
        try:
            while True:
                message = unframe(self._receive(HEAD.unpack(self._receive(HEAD.size))[0]))
                if isinstance(message, Stop):
                    self._stopping = True
                    context = self._context
                    if context is not None:
                        context.request_cancel()
                    self._messages.put(None)
                elif isinstance(message, Look):
                    self._look(message.number)
                else:
                    self._messages.put(message)
        finally:
            # The parent is gone, and another instance may take the task over: it must not run on here.
            os._exit(1)

    def _receive(self, size: int) -> bytes:
        parts = []
        while size > 0:
            part = self._parent.recv(min(size, 1_048_576))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _send(self, message: object) -> None:
        data = frame(message)
        if self._silent:
            # In a forked process, the thread that holds the lock may not exist.
            return
        with self._sending:
            self._write(data)

    def _write(self, data: bytes) -> None:
        if self._silent:
            return
        try:
            self._parent.sendall(data)
        except OSError:
            # The listener sees the end too, and acts on it.
            self._silent = True

    def _terminate(self, signum: int, stack: object) -> None:
        if self._stopping and not self._silent:
            # A message may be half written; nothing may follow it.
            self._silent = True
            raise SystemExit(128 + signum)

    def _forked(self) -> None:
        """The task forked this process: it must not talk to the parent."""
        self._silent = True
        self._parent.close()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _set_up(self, setup: Setup) -> None:
        sys.argv[:] = setup.argv
        if setup.capture_logs:
            root = logging.getLogger()
            root.setLevel(setup.log_level)
            root.addHandler(TaskLogHandler())

    def _load_ahead(self, message: Load) -> None:
        if message.function is not None:
            try:
                self._load(message.function)
            except BaseException as exc:  # a module may call sys.exit
                if self._silent:
                    raise
                # It fails again in the attempt, which then reports it.
                logging.getLogger("taskflow_otel.engine").debug("loading ahead failed: %s", exc)
        self._send(Loaded())

    def _load(self, function: FunctionReference) -> tuple[Callable[..., Any], Codec]:
        known = self._functions.get(function)
        if known is None:
            func = load_function(function)
            known = func, Codec(func)
            if function.value is None:
                self._functions[function] = known
        return known

    def _run(self, attempt: Attempt) -> None:
        try:
            # An empty context each time: an attempt inherits nothing from the one before.
            contextvars.Context().run(self._enter, attempt)
        except BaseException as exc:  # whatever user code raises goes to the parent
            if self._silent:
                raise
            exc.__traceback__ = _below(exc.__traceback__)
            shown = exc
            if issubclass(type(exc), StopIteration):
                # No coroutine can raise it in the parent.
                shown = RuntimeError("the task raised StopIteration")
                shown.__cause__ = exc
            self._end(Ended(attempt.number, pack_failure(shown, describe_failure(shown))))
            return
        self._end(Ended(attempt.number, None))

    def _enter(self, attempt: Attempt) -> None:
        func, codec = self._load(attempt.call.function)
        arguments = attempt.call.arguments
        args, kwargs = codec.decode(arguments) if isinstance(arguments, str) else unframe(arguments)
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            # Only if the user's modules set none: an SDK of the application exports by itself.
            trace.set_tracer_provider(self._tracing)
        carried = TraceContextTextMapPropagator().extract(attempt.carrier)
        carried = W3CBaggagePropagator().extract(attempt.carrier, carried)
        otel_context.attach(otel_context.set_value(TASK_ID_KEY, attempt.task_id, carried))

        # Both receive plain data from the context, which any process can read.
        def say(_: TaskContext, message: str, level: str, extra: dict[str, Any], size: int, exported: bool) -> None:
            span = reference(trace.get_current_span().get_span_context())
            self._send(Said(attempt.number, message, level, extra, size, span, exported))

        def progressed(_: TaskContext, progress: Progress) -> None:
            self._send(Progressed(attempt.number, progress))

        context = TaskContext(attempt.task_id, attempt.func_name, attempt.attempt, attempt.tags, say, progressed)
        enter_task_context(context)
        self._number, self._context = attempt.number, context
        if self._stopping:
            context.request_cancel()
        result = _entered(func, args, kwargs)
        if inspect.isawaitable(result):
            asyncio.run(self._await(result))

    async def _await(self, result: Any) -> None:
        self._on_loop = asyncio.current_task()
        try:
            await _awaited(result)
        finally:
            self._on_loop = None

    def _look(self, number: int) -> None:
        """Say where the attempt is, from the listener's thread."""
        if self._context is None or self._number != number:
            return
        frame, frames = frame_of(_MAIN_THREAD), []
        while frame is not None:
            frames.append(frame)
            frame = frame.f_back
        waiting = self._on_loop
        if waiting is not None and not any(one.f_code is _awaited.__code__ for one in frames):
            # Its event loop waits, or runs something else.
            frames = suspended_frames(waiting)[::-1]
        below = next((index for index, one in enumerate(frames) if one.f_code in _ABOVE), len(frames))
        self._send(Seen(number, tuple(place_of(one) for one in reversed(frames[:below]))))

    def _end(self, message: Ended) -> None:
        self._context = None
        self._send(message)
        self._flush()

    def _spanned(self, span: FinishedSpan) -> None:
        self._send(Spanned(span))

    def _flush(self) -> None:
        """Let an SDK that the user's modules set up here export now: a later kill would lose its data."""
        if not _flushes():
            return
        if self._flusher is None:
            self._flusher = threading.Thread(target=self._keep_flushing, name="taskflow-flush", daemon=True)
            self._flusher.start()
        self._ended.set()

    def _keep_flushing(self) -> None:
        while True:
            self._ended.wait()
            self._ended.clear()
            for flush in _flushes():
                try:
                    flush(_FLUSH_MILLISECONDS)
                except Exception as exc:
                    logging.getLogger("taskflow_otel.engine").warning("telemetry could not be flushed: %s", exc)


def _entered(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return func(*args, **kwargs)


async def _awaited(result: Any) -> None:
    while inspect.isawaitable(result):
        result = await result


_MAIN_THREAD = threading.main_thread().ident or 0
_ABOVE = {_awaited.__code__, _entered.__code__}
"""The code that calls the function."""


def _flushes() -> list[Callable[[int], Any]]:
    providers = (trace.get_tracer_provider(), _logs.get_logger_provider())
    return [flush for flush in (getattr(provider, "force_flush", None) for provider in providers) if flush is not None]


def _below(tb: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of this module, which do not help the user."""
    inner = tb
    while inner is not None and inner.tb_frame.f_code.co_filename == __file__:
        inner = inner.tb_next
    return inner or tb


def _ignore(signum: int, stack: object) -> None:
    """The parent decides."""


def _die_with_parent() -> None:
    """Let the kernel end this process with its parent, also while C code keeps the listener from running (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
