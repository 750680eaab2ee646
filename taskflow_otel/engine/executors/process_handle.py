"""One child process of the process executor, as its parent sees it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import signal
import socket
import subprocess  # nosec B404  # children run this interpreter with our own program
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.spawn import get_executable
from pathlib import Path
from typing import Any, assert_never

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.trace import NonRecordingSpan
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from taskflow_otel.engine.context import TaskContext
from taskflow_otel.engine.executors.base import Call
from taskflow_otel.engine.executors.process_protocol import (
    HEAD,
    Attempt,
    ChildFailure,
    Ended,
    FromChild,
    FunctionReference,
    Load,
    Loaded,
    Look,
    PackedCall,
    Progressed,
    Said,
    Seen,
    Setup,
    Spanned,
    Stop,
    frame,
    unframe,
)
from taskflow_otel.engine.executors.process_spans import SpanForwarder
from taskflow_otel.errors import TaskProcessError
from taskflow_otel.exporters.otel import spans
from taskflow_otel.model.stack import Place

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

TERMINATE_SECONDS = 2.0
"""Seconds for the `finally` blocks of a cancelled function, between SIGTERM and SIGKILL."""
_DYING_SECONDS = 1.0
_FIRST_DIRECTORY = Path.cwd() if Path().exists() else None
"""The working directory in which this process found its modules; `None` if that did not exist any more."""


class ChildProcess:
    """One child process, from its start until it has been reaped."""

    def __init__(self, setup: Setup, forwarder: SpanForwarder) -> None:
        self._loop = asyncio.get_running_loop()
        self._forwarder = forwarder
        self._process: subprocess.Popen[bytes] | None = None
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._exited: asyncio.Future[None] = self._loop.create_future()
        self._exit_code: int | None = None
        self._how = ""
        self._writer: asyncio.StreamWriter | None = None
        self._unsent: list[bytes] = [frame(setup)]
        self._number = 0
        self._call: Call | None = None
        self._context = contextvars.Context()
        """That of the attempt."""
        self._outcome: asyncio.Future[ChildFailure | None] | None = None
        self._askers: list[Callable[[Sequence[Place]], None]] = []
        self._loading: asyncio.Future[None] | None = None
        self._loaded: set[FunctionReference | None] = set()
        self.usable: bool = True
        """Whether it can run another attempt."""
        self.life: asyncio.Task[None] = self._loop.create_task(self._live())
        """Ends when the process has been reaped and all its messages have been read."""

    @property
    def has_run(self) -> bool:
        """Whether it was given an attempt."""
        return self._number > 0

    def has_loaded(self, function: FunctionReference | None) -> bool:
        """Whether the function can be entered without an import."""
        return function in self._loaded

    async def load(self, function: FunctionReference | None) -> None:
        """Return when the process runs and has imported the function, or has failed to do so."""
        if function in self._loaded or not self.usable:
            return
        loading = self._loading = self._loop.create_future()
        self._send(Load(function))
        await asyncio.wait({loading, self.life}, return_when=asyncio.FIRST_COMPLETED)
        self._loaded.add(function)

    async def run(self, call: Call, packed: PackedCall) -> ChildFailure | None:
        """Run an attempt; raises `TaskProcessError` if the process ends first."""
        carrier: dict[str, str] = {}
        # Its reports arrive in the context of the reader.
        self._context = contextvars.copy_context()
        _inject(carrier)
        self._number += 1
        self._call = call
        outcome: asyncio.Future[ChildFailure | None] = self._loop.create_future()
        self._outcome = outcome
        self._askers.clear()
        context = call.task_context
        self._send(
            Attempt(
                number=self._number,
                call=packed,
                task_id=context.task_id,
                func_name=context.func_name,
                attempt=context.attempt,
                tags=dict(context.tags),
                carrier=carrier,
            )
        )
        try:
            first: set[asyncio.Future[Any]] = {outcome, self.life}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if outcome.done():
                return outcome.result()
            raise TaskProcessError(call.definition.name, self._exit_code, self._how)
        finally:
            self._outcome = None

    def runs(self, call: Call) -> bool:
        """Whether it runs this attempt now."""
        return self._outcome is not None and self._call is call

    def look(self, tell: Callable[[Sequence[Place]], None]) -> None:
        """Ask where the attempt is; `tell` is called with the answer, if there is one before the attempt ends."""
        self._askers.append(tell)
        self._send(Look(self._number))

    async def end(self, ask: float) -> None:
        """End the process: ask it to exit within `ask` seconds, then SIGTERM, then SIGKILL. Returns when it is gone."""
        self.usable = False
        self._send(Stop())
        await asyncio.wait({self._started})
        for act, wait in ((None, ask), (signal.SIGTERM, TERMINATE_SECONDS), (signal.SIGKILL, None)):
            if act is not None:
                self._signal(act)
            await asyncio.wait({self._exited}, timeout=wait)
            if self._exited.done():
                break
        await asyncio.wait({self.life})

    def kill(self) -> None:
        """End the process at once."""
        self.usable = False
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _send(self, message: object) -> None:
        data = frame(message)
        if self._writer is None:
            self._unsent.append(data)
        elif not self._writer.is_closing():
            self._writer.write(data)

    async def _live(self) -> None:
        try:
            ours, theirs = socket.socketpair()
        except OSError as exc:
            self._gone(None, f"could not be started: {exc}")
            return
        guardian = threading.Thread(target=self._guard, args=(theirs,), name="taskflow-child", daemon=True)
        guardian.start()
        # A process that the task started may keep the other end open, so the death of the child ends the reading too.
        self._exited.add_done_callback(lambda _: _shut(ours))
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        for data in self._unsent:
            writer.write(data)
        self._unsent.clear()
        self._writer = writer
        try:
            await self._read(reader)
            self.usable = False
            await asyncio.wait({self._exited}, timeout=_DYING_SECONDS)
            if not self._exited.done():
                # It has closed its end but still lives: it can receive no more messages.
                self.kill()
                await asyncio.wait({self._exited})
        except asyncio.CancelledError:
            self.kill()
            raise
        finally:
            self.usable = False
            writer.close()
        guardian.join()
        try:
            await writer.wait_closed()
        except OSError:
            return

    def _guard(self, theirs: socket.socket) -> None:
        """Start the process and wait for its end, in a thread that lives as long as the process.

        Not a pool thread: Linux ties the child's life (`PR_SET_PDEATHSIG`) to the thread that started it.
        """
        with theirs:
            fd = theirs.fileno()
            code = (
                "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
                "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
                f"sys.path[:] = {_import_path()!r}; "
                f"from taskflow_otel.engine.executors.process_child import main; main({fd})"
            )
            try:
                self._process = subprocess.Popen(  # nosec B603  # no shell, and no word of it comes from outside
                    [os.fsdecode(get_executable()), *_interpreter_options(), "-c", code],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[fd],
                )
            except (OSError, ValueError) as exc:
                self._tell(self._gone, None, f"could not be started: {exc}")
                return
        self._tell(_settle, self._started)
        returned = self._process.wait()
        self._tell(self._gone, returned, _how(returned))

    def _tell(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            # The loop is closed: no one waits for this any more.
            return

    def _gone(self, exit_code: int | None, how: str) -> None:
        self._exit_code, self._how = exit_code, how
        self.usable = False
        _settle(self._started)
        _settle(self._exited)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                (size,) = HEAD.unpack(await reader.readexactly(HEAD.size))
                self._take(unframe(await reader.readexactly(size)))
        except (asyncio.IncompleteReadError, OSError):
            return
        except Exception as exc:  # a broken message must end this child and nothing else
            logger.error("a child process sent a message that cannot be read: %s", exc)

    def _take(self, message: FromChild) -> None:
        match message:
            case Said(number=number) if self._call is not None and number == self._number:
                self._context.copy().run(_say, self._call.task_context, message)
            case Progressed(number=number, progress=progress) if self._call is not None and number == self._number:
                self._call.task_context.forward_progress(progress)
            case Seen(number=number, places=places) if number == self._number:
                askers, self._askers = self._askers, []
                for tell in askers:
                    tell(places)
            case Spanned(span=span):
                # In the context of the attempt, like a span that is made here.
                self._context.copy().run(self._forwarder.forward, span)
            case Ended(number=number, failure=failure) if number == self._number:
                if self._outcome is not None and not self._outcome.done():
                    self._outcome.set_result(failure)
            case Loaded():
                if self._loading is not None:
                    _settle(self._loading)
            case Said() | Seen() | Progressed() | Ended():
                # Of an attempt that has been given up.
                pass
            case _:
                assert_never(message)


def _inject(carrier: dict[str, str]) -> None:
    """Write the W3C headers of the current context; the global propagator may write another format."""
    TraceContextTextMapPropagator().inject(carrier)
    W3CBaggagePropagator().inject(carrier)


def _say(context: TaskContext, said: Said) -> None:
    span = spans.restore(said.span, is_remote=True)
    if span is not None:
        otel_context.attach(trace.set_span_in_context(NonRecordingSpan(span)))
    context.forward_log(said.message, said.level, said.extra, said.size, said.exported)


def _how(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exited with code {exit_code} in the middle of it"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    hint = " (the kernel does that when memory runs out)" if -exit_code == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"


def _import_path() -> list[str]:
    """`sys.path` for a child. If this process has changed its directory since, it must find the same modules there."""
    found: list[str] = []
    for item in sys.path:
        if isinstance(item, str):
            found.append(item)
            if _FIRST_DIRECTORY is not None and not Path(item).is_absolute():
                found.append(str(_FIRST_DIRECTORY / item))
    return found


def _interpreter_options() -> list[str]:
    """The options that the children's interpreter must share with this one, so that code behaves the same."""
    optimize = [f"-{'O' * sys.flags.optimize}"] if sys.flags.optimize else []
    return [*optimize, *(f"-W{item}" for item in sys.warnoptions)]


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RD)
    except OSError:
        # Closed already.
        return
