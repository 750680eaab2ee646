"""`executor="process"`: each attempt runs in a child process of the manager, which can be killed."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence

from taskflow_otel.engine.executors.base import Call
from taskflow_otel.engine.executors.process_handle import ChildProcess
from taskflow_otel.engine.executors.process_protocol import (
    FunctionReference,
    PackedCall,
    Setup,
    importable,
    pack_call,
    revive,
)
from taskflow_otel.engine.executors.process_spans import SpanForwarder
from taskflow_otel.engine.failure import ChildTraceback
from taskflow_otel.engine.registry import TaskDefinition
from taskflow_otel.model.options import seconds, whole
from taskflow_otel.model.stack import Place
from taskflow_otel.model.vocabulary import ExecutorKind

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

ASK_SECONDS = 0.5
"""Seconds that a cancelled function gets to see `context.cancelled` and end by itself, and at shutdown a child that has
run nothing."""
PREPARE_SECONDS = 30.0
"""Seconds for the start of a process and the import of the task's module; more counts as part of the attempt."""


class ProcessExecutor:
    """Plain functions, in child processes: one attempt at a time in each, at most `workers` of them (default: CPUs).

    Children start when they are first needed, as fresh interpreters (never by a bare fork, which is unsafe with
    threads), and are used again. A child imports the function's module to find the function. Arguments travel as the
    codec writes them. Functions of `__main__`, lambdas and closures, and arguments that the codec cannot write,
    travel by cloudpickle. The function's result is discarded.

    `task_log`, progress, `context.cancelled`, the attempt's trace context and baggage work in the child as they do
    elsewhere; log entries and progress arrive while the function runs. Spans that user code makes there go to the
    manager's tracer provider, under their own ids. If the imported modules set up an SDK, that SDK exports them
    instead, and is flushed after each attempt. Not carried over: other context variables, metrics, and the
    configuration of `logging` (except the root logger's level, with `capture_logs`).

    A cancelled or timed-out attempt is asked to stop, then gets SIGTERM (a `SystemExit` inside the function), then
    SIGKILL; only its process is replaced. A child ignores SIGINT and SIGTERM from others, because the parent decides
    what ends. It ends at once when the parent has died, for whatever reason.

    `shutdown_timeout`: seconds that idle children get for their exit handlers at shutdown, before they are killed. One
    that has run no attempt yet gets `ASK_SECONDS`.
    `forwarder` receives the spans of the children. Raises `ConfigurationError` for an invalid number.
    """

    name: str = ExecutorKind.PROCESS.value
    cancellable = True

    def __init__(
        self,
        workers: int | None = None,
        *,
        shutdown_timeout: float = 30.0,
        forwarder: SpanForwarder | None = None,
        capture_logs: bool = False,
    ) -> None:
        if workers is not None:
            whole("max_process_workers", workers, minimum=1)
        self.capacity: int | None = workers or os.cpu_count() or 1
        self._shutdown_timeout = seconds("process_shutdown_timeout", shutdown_timeout)
        self._forwarder = forwarder or SpanForwarder()
        self._capture_logs = capture_logs
        self._children: set[ChildProcess] = set()
        self._idle: list[ChildProcess] = []
        self._prepared: dict[str, ChildProcess] = {}
        self._process = 0

    async def start(self) -> None:
        """Children start when they are needed; those of another process, before a fork, are its own."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._children, self._idle, self._prepared = set(), [], {}

    async def prepare(self, task_id: str, definition: TaskDefinition) -> None:
        """Start a child and load the function there. Neither counts as part of the attempt or its timeout."""
        function = importable(definition.func)
        child = self._prepared[task_id] = self._take(function)
        try:
            async with asyncio.timeout(PREPARE_SECONDS):
                await child.load(function)
        except TimeoutError:
            logger.warning(
                "the module of %s is not imported in its process after %g s; further waiting counts as its run time",
                definition.name,
                PREPARE_SECONDS,
            )

    def dismiss(self, task_id: str) -> None:
        """Release what was prepared for an attempt, if it did not run."""
        child = self._prepared.pop(task_id, None)
        if child is not None:
            self._put_back(child)

    async def run(self, call: Call) -> None:
        """Run one attempt in a child.

        Raises the function's exception (an instance of the same class, if this process knows the class), or
        `TaskProcessError` if the child ended instead.
        """
        packed = _packed(call)
        child = self._prepared.pop(call.task_context.task_id, None)
        if child is None or not child.usable:
            child = self._take(packed.function)
        try:
            failure = await child.run(call, packed)
        except asyncio.CancelledError:
            await self._end_regardless(child)
            raise
        finally:
            self._put_back(child)
        if failure is not None:
            raise revive(failure) from ChildTraceback(failure.description)

    def look(self, call: Call, attempt: asyncio.Task[None], tell: Callable[[Sequence[Place]], None]) -> None:
        """Ask the child, which answers even while its function computes."""
        child = next((child for child in self._children if child.runs(call)), None)
        if child is not None:
            child.look(tell)

    async def close(self, timeout: float) -> None:
        """End all children, within their `shutdown_timeout` and not `timeout`: exit handlers may flush telemetry."""
        children = list(self._children)
        self._idle.clear()
        self._prepared.clear()
        try:
            # One that has run nothing has nothing to flush: its import may take longer than the platform waits.
            brief = min(ASK_SECONDS, self._shutdown_timeout)
            await asyncio.gather(*(child.end(self._shutdown_timeout if child.has_run else brief) for child in children))
        except asyncio.CancelledError:
            for child in children:
                child.kill()
            raise

    def _take(self, function: FunctionReference | None) -> ChildProcess:
        self._idle = [child for child in self._idle if child.usable]
        best = next((child for child in reversed(self._idle) if child.has_loaded(function)), None)
        if best is None and self._idle:
            best = self._idle[-1]
        if best is not None:
            self._idle.remove(best)
            return best
        root = logging.getLogger()
        setup = Setup(list(sys.argv), self._capture_logs, root.getEffectiveLevel())
        child = ChildProcess(setup, self._forwarder)
        self._children.add(child)
        child.life.add_done_callback(lambda _: self._children.discard(child))
        return child

    def _put_back(self, child: ChildProcess) -> None:
        if child.usable and child in self._children:
            self._idle.append(child)

    @staticmethod
    async def _end_regardless(child: ChildProcess) -> None:
        """Return only when the process is gone: until then the attempt is not over."""
        ending = asyncio.get_running_loop().create_task(child.end(ASK_SECONDS))
        while not ending.done():
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:
                # Cancelled again while the child still had time: it gets no more.
                child.kill()


def _packed(call: Call) -> PackedCall:
    if len(call.args) == 1 and isinstance(call.args[0], PackedCall):
        return call.args[0]
    # The arguments were read from the ledger, or decrypted just now.
    codec = call.definition.codec
    payload = None if codec is None else codec.encode(call.args, call.kwargs)
    return pack_call(call.definition.func, call.args, call.kwargs, payload)
