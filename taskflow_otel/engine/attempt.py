"""One attempt of one task: from its slot to its outcome."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Protocol

from taskflow_otel.engine.builder import TaskBuilder
from taskflow_otel.engine.context import enter_task_context
from taskflow_otel.engine.dispatch import Dispatcher
from taskflow_otel.engine.executors.base import Call, Executor, PreparingExecutor
from taskflow_otel.engine.failure import Failure, describe_failure
from taskflow_otel.engine.ledger.ledger import Ledger
from taskflow_otel.engine.lifecycle import Lifecycle
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.engine.membership import LEAVING, Ownership
from taskflow_otel.engine.phase import Step
from taskflow_otel.engine.task_output import TaskOutput
from taskflow_otel.errors import (
    BackendUnavailableError,
    StaleTokenError,
    TaskArgumentError,
    TaskCancelledError,
    TaskTimeoutError,
)
from taskflow_otel.model.status import Transition
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.timers import Timers

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

_START_TIMEOUT = 5.0
_START_RETRY = 1.0


# Module-level names: until Python 3.12, the lookup of an enum member takes as long as a call.
_STARTED, _SUCCEEDED = Transition.STARTED, Transition.SUCCEEDED
_END, _ENTER = Step.END, Step.ENTER


class AttemptOwner(Protocol):
    """The part that starts attempts and decides what follows them."""

    def waits(self, task: LiveTask, seconds: float) -> None:
        """The task will run again after `seconds`."""

    def expired(self, task: LiveTask, timeout: float) -> None:
        """The attempt has taken `timeout` seconds and will be asked to stop."""

    def asked(self, task: LiveTask) -> None:
        """The attempt was asked to stop."""

    def ended(self, attempt: asyncio.Task[None], failure: Exception | None) -> None:
        """The attempt has ended. `failure`: an error of the engine, not of the task's function."""


class AttemptRunner:
    """Runs attempts. Each one is an asyncio task, owned by the engine, in the context of the code that enqueued it."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        ledger: Ledger,
        executors: Mapping[str, Executor],
        clock: Clock,
        timers: Timers,
        *,
        builder: TaskBuilder,
        output: TaskOutput,
        slots: Dispatcher,
        owner: AttemptOwner,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._lifecycle = lifecycle
        self._ledger = ledger
        self._executors = executors
        self._preparing = {name: item for name, item in executors.items() if isinstance(item, PreparingExecutor)}
        self._clock = clock
        self._timers = timers
        self._builder = builder
        self._output = output
        self._slots = slots
        self._owner = owner
        self._draw = draw

    async def run(self, task: LiveTask) -> None:
        """Run one attempt of a task that has a slot, and give the slot back."""
        executor = self._executors[task.record.executor]
        preparing = self._preparing.get(task.record.executor)
        wait: float | None = None
        failure: Exception | None = None
        attempt = task.attempt or asyncio.current_task()
        assert attempt is not None
        try:
            try:
                if preparing is not None:
                    await preparing.prepare(task.id, task.definition)
                queue_wait = self._clock.monotonic() - task.ready_at
                if queue_wait < 0.0:
                    queue_wait = 0.0
                if not task.durable:
                    self._lifecycle.started(task, queue_wait)
                else:
                    try:
                        await self._lifecycle.move(task, _STARTED, queue_wait=queue_wait, timeout=_START_TIMEOUT)
                    except BackendUnavailableError as exc:
                        logger.warning("the start of %s could not be committed (%s); trying again", task.id, exc)
                        wait = _START_RETRY
                        return
                self._slots.entered(task)
                if task.cancel_reason is not None:
                    # Cancelled while the start was being committed: the function is never entered.
                    task.advance(_END)
                    self._lifecycle.function_over(task)
                    wait = await self._stopped(task, 0.0, None)
                    return
                began = self._clock.monotonic()
                try:
                    call = self._enter(task)
                    timeout = task.definition.config.timeout
                    # Not in a coroutine of its own, nor is this: a task that waits would hold one object more for each,
                    # and each of its steps would take longer.
                    await (executor.run(call) if timeout is None else self._run_within(timeout, task, executor, call))
                except BaseException as exc:  # whatever user code raises, the task gets a state
                    wait = await self._raised(task, exc, began)
                    return
                task.advance(_END)
                self._lifecycle.function_over(task)
                # `_is_cancelling` without the call.
                if attempt.cancelling():
                    await _absorb_cancellation()
                duration = self._clock.monotonic() - began
                if task.durable:
                    await self._lifecycle.move(task, _SUCCEEDED, duration=duration)
                else:
                    self._lifecycle.succeeded(task, duration)
            except StaleTokenError as exc:
                logger.warning("%s", exc)
                self._lifecycle.fenced(task, deleted=exc.deleted)
            finally:
                if preparing is not None:
                    preparing.dismiss(task.id)
                self._slots.give_back(task)
                if wait is not None:
                    self._owner.waits(task, wait)
        except Exception as exc:
            failure = exc
        finally:
            self._owner.ended(attempt, failure)
            # The traceback of the exception holds this frame.
            failure = None

    def _enter(self, task: LiveTask) -> Call:
        args, kwargs = (task.args, task.kwargs) if task.args is not None else self._builder.decode(task)
        context = self._output.context_of(task)
        task.task_context = context
        enter_task_context(context)
        task.advance(_ENTER)
        if task.durable and task.record.trace_id is not None:
            # If the process dies, recovery needs the ids of this attempt's span.
            self._ledger.note(task)
        call = task.call = Call(task.definition, args, kwargs or {}, context, task.record.payload)
        return call

    async def _run_within(self, timeout: float, task: LiveTask, executor: Executor, call: Call) -> None:
        """Stop the function after `timeout`: by cancellation where that works, else through its task context."""
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = True
            self._owner.expired(task, timeout)
            call.task_context.request_cancel()
            if (executor.cancellable or call.on_loop) and task.attempt is not None:
                task.attempt.cancel()
            self._owner.asked(task)

        timer = self._timers.after(timeout, expire)
        try:
            await executor.run(call)
        except BaseException as exc:
            if expired and task.cancel_reason is None:
                raise TaskTimeoutError(task.record.func_name, timeout) from exc
            raise
        finally:
            timer.cancel()
        if expired:
            raise TaskTimeoutError(task.record.func_name, timeout)

    async def _raised(self, task: LiveTask, exc: BaseException, began: float) -> float | None:
        """Apply the outcome of a function that raised; return the seconds to wait if the task runs again here."""
        task.advance(_END)
        self._lifecycle.function_over(task)
        if _is_cancelling(task):
            await _absorb_cancellation()
        return await self._failed(task, exc, self._clock.monotonic() - began)

    async def _failed(self, task: LiveTask, exc: BaseException, duration: float) -> float | None:
        # Not `isinstance`, which asks the exception for its `__class__`: it may be a property that raises.
        kind = type(exc)
        stopped = issubclass(kind, (asyncio.CancelledError, TaskCancelledError))
        if task.cancel_reason is not None and (stopped or task.cancel_reason in LEAVING):
            return await self._stopped(task, duration, None if stopped else describe_failure(exc))
        failure = describe_failure(exc)
        policy = task.definition.config.retry
        retryable = not issubclass(kind, TaskArgumentError) or task.args is not None
        if retryable and task.cancel_reason is None and policy.allows(exc, task.record.retries_used):
            wait = policy.wait(task.record.retries_used, self._draw())
            await self._lifecycle.move(
                task,
                Transition.RETRY_SCHEDULED,
                reason=Reason.RETRY_WAIT,
                failure=failure,
                duration=duration,
                run_at=self._clock.now() + timedelta(seconds=wait),
            )
            return wait
        if task.definition.codec is None:
            task.error = exc
        reason = Reason.TIMEOUT if issubclass(kind, TaskTimeoutError) else None
        await self._lifecycle.move(task, Transition.FAILED, reason=reason, failure=failure, duration=duration)
        return None

    async def _stopped(self, task: LiveTask, duration: float, failure: Failure | None) -> float | None:
        """End an attempt that was stopped from outside: cancelled by the user, or interrupted by a shutdown."""
        reason = task.cancel_reason
        if reason is Ownership.LOST:
            raise StaleTokenError(task.id)
        if reason is not Reason.SHUTDOWN:
            await self._lifecycle.move(task, Transition.CANCELLED, reason=reason, failure=failure, duration=duration)
        elif task.record.persisted and task.definition.config.requeue_on_interrupt:
            await self._lifecycle.move(task, Transition.RECOVERED, reason=reason, failure=failure, duration=duration)
            task.advance(Step.SET_ASIDE)
        else:
            await self._lifecycle.move(task, Transition.INTERRUPTED, reason=reason, failure=failure, duration=duration)
        return None


def _is_cancelling(task: LiveTask) -> bool:
    """Whether the function left a pending cancellation."""
    return task.attempt is None or task.attempt.cancelling() > 0


async def _absorb_cancellation() -> None:
    """Consume a cancellation that the function left pending: it would hit the commit of the outcome.

    A function may cancel its own task, or return without awaiting anything after it was cancelled.
    """
    current = asyncio.current_task()
    if current is None or not current.cancelling():
        return
    while current.cancelling():
        current.uncancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
