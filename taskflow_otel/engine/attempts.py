"""The attempts that run now: how they start, and what happens to a task that will run again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context

from taskflow_otel.engine.attempt import AttemptRunner
from taskflow_otel.engine.control import Control
from taskflow_otel.engine.drain import Drain
from taskflow_otel.engine.intake import Intake
from taskflow_otel.engine.life import Life
from taskflow_otel.engine.live import LiveTask
from taskflow_otel.engine.membership import Ownership
from taskflow_otel.engine.phase import Step
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.vocabulary import Reason
from taskflow_otel.runtime.owned_tasks import OwnedTasks

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")


class Attempts:
    """Starts attempts, each as an asyncio task of `owned`. It is an `AttemptOwner`.

    `background` owns the work for tasks that may not wait here for another attempt. `on_error` is called with the error
    of an attempt that is not the failure of its function.
    """

    def __init__(
        self,
        owned: OwnedTasks,
        background: OwnedTasks,
        intake: Intake,
        control: Control,
        drain: Drain,
        life: Life,
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._owned = owned
        self._background = background
        self._intake = intake
        self._control = control
        self._drain = drain
        self._life = life
        self._on_error = on_error
        self._runner: AttemptRunner | None = None

    def connect(self, runner: AttemptRunner) -> None:
        """Set what runs the attempts."""
        self._runner = runner

    def start(self, task: LiveTask) -> None:
        """Start an attempt of a task that has a slot, in the context of the code that enqueued the task."""
        assert self._runner is not None
        context = task.context
        if context is None:
            context = Context()
        elif task.definition.config.retry.retries:
            # A later attempt must not find what this one sets.
            context = context.copy()
        # Not that of an earlier attempt, on an event loop that starts its tasks eagerly.
        task.attempt = None
        task.attempt = self._owned.begin(self._runner.run(task), context, task.record.func_name)

    def waits(self, task: LiveTask, seconds: float) -> None:
        """Let a retry wait here; while draining, a persisted task stays in the ledger for the next start."""
        reason = task.cancel_reason
        if reason is Ownership.LOST:
            self._control.leave_to_owner(task)
        elif reason is None and (self._life.running or self._drain.has_time(task, seconds)):
            self._intake.line_up(task, seconds)
        elif reason is None or reason is Reason.SHUTDOWN:
            task.advance(Step.SET_ASIDE)
            self._background.own(self._drain.leave(task))
        else:
            task.advance(Step.SET_ASIDE)
            self._background.own(self._control.stop(task, reason))

    def ended(self, attempt: asyncio.Task[None], failure: Exception | None) -> None:
        """An attempt is over."""
        if failure is not None:
            self._on_error(failure)
        self._owned.end(attempt)

    def expired(self, task: LiveTask, timeout: float) -> None:
        """Remember where it was."""
        self._control.stacks.remember(task, f"its timeout of {timeout:g} s has passed")

    def asked(self, task: LiveTask) -> None:
        """The attempt was asked to stop; report it if it does not."""
        self._control.watch(task)


def log_attempt_error(exc: BaseException) -> None:
    """Report an attempt that ended with an exception that is not one of its task."""
    if isinstance(exc, BackendUnavailableError):
        # The event loop is being closed during the attempt.
        logger.error("the outcome of an attempt could not be written: %s", exc)
        return
    logger.critical("an attempt ended with an error of the engine: %s", exc, exc_info=exc)
