"""The phases of a task inside this process, the steps between them, and the table of legal steps.

The status is public (`taskflow_otel.model.status`); the phase says what the engine may do next. The picture is in
`docs/architecture.md`; a test compares the table beside it with this one.
"""

from __future__ import annotations

from enum import IntEnum, auto
from typing import Final

from taskflow_otel.errors import IllegalTransitionError


# Integers, because both index the table, and each task takes several steps.
class Phase(IntEnum):
    """The phase of a task inside this process."""

    BUILT = 0
    """Built, and not visible to anyone: its request has not asked for the commit yet."""
    COMMITTING = auto()
    """Its insert is being committed. A cancellation is noted now, and the intake carries it out later."""
    HELD = auto()
    """Known, and held back: until its request ends, or because this process is shutting down."""
    DELAYED = auto()
    """Waiting for a time: a delay, `run_at`, a retry."""
    READY = auto()
    """In its queue, waiting for a slot."""
    STARTING = auto()
    """Holds a slot; the start is being committed."""
    RUNNING = auto()
    """Inside the function."""
    ENDING = auto()
    """The outcome is being committed: the function has ended, or will not be entered. Or the decision of a takeover."""
    GONE = auto()
    """Finished, or owned by another instance."""


class Step(IntEnum):
    """A step that takes a task from one phase to the next."""

    COMMIT = 0
    """The insert goes to the ledger."""
    COMMIT_FAILED = auto()
    """The commit of the insert failed."""
    KNOWN = auto()
    """`ENQUEUED` is published; the insert of a durable task is committed."""
    TAKEN_OVER = auto()
    """This instance has taken the task over from a dead one; the decision about it is being committed."""
    WAIT = auto()
    """A timer is set."""
    LINE_UP = auto()
    """It joins its queue."""
    GET_SLOT = auto()
    """The dispatcher gives it a slot."""
    ENTER = auto()
    """Its function is entered."""
    END = auto()
    """Its function no longer runs; its outcome is decided."""
    SET_ASIDE = auto()
    """It is removed from its queue and its timer."""
    LEAVE = auto()
    """It has an outcome, or belongs to another instance."""


_ALIVE = tuple(phase for phase in Phase if phase is not Phase.GONE)

TABLE: Final[dict[Step, dict[Phase, Phase]]] = {
    Step.COMMIT: {Phase.BUILT: Phase.COMMITTING},
    Step.COMMIT_FAILED: {Phase.COMMITTING: Phase.BUILT},
    Step.KNOWN: {Phase.BUILT: Phase.HELD, Phase.COMMITTING: Phase.HELD},
    Step.TAKEN_OVER: {Phase.BUILT: Phase.ENDING},
    # From STARTING if the start could not be committed, from ENDING for a retry.
    Step.WAIT: dict.fromkeys((Phase.HELD, Phase.STARTING, Phase.ENDING), Phase.DELAYED),
    Step.LINE_UP: dict.fromkeys((Phase.HELD, Phase.DELAYED), Phase.READY),
    Step.GET_SLOT: {Phase.READY: Phase.STARTING},
    Step.ENTER: {Phase.STARTING: Phase.RUNNING},
    Step.END: dict.fromkeys((Phase.HELD, Phase.DELAYED, Phase.STARTING, Phase.RUNNING), Phase.ENDING),
    Step.SET_ASIDE: dict.fromkeys((Phase.HELD, Phase.DELAYED, Phase.READY, Phase.STARTING, Phase.ENDING), Phase.HELD),
    Step.LEAVE: dict.fromkeys(_ALIVE, Phase.GONE),
}
"""The legal steps, with their source phases and their target phase."""

UNKNOWN_PHASES: Final = frozenset({Phase.BUILT, Phase.COMMITTING})
"""Only this process knows the task."""
WAITING_PHASES: Final = frozenset({Phase.BUILT, Phase.COMMITTING, Phase.HELD, Phase.DELAYED, Phase.READY})
"""The task holds no slot."""
BEFORE_COMMIT_PHASES: Final = frozenset({Phase.BUILT, Phase.COMMITTING, Phase.HELD, Phase.STARTING, Phase.ENDING})
"""The ledger may hold a line of a durable task that is not published yet."""

NEXT: Final = tuple(tuple(TABLE[step].get(phase) for phase in Phase) for step in Step)
"""The same table, to be indexed by step and phase; `None` where there is no such step."""


def next_phase(phase: Phase, step: Step) -> Phase:
    """The phase that `step` leads to; raises `IllegalTransitionError` outside the table, a bug of the library."""
    following = NEXT[step][phase]
    if following is None:
        raise IllegalTransitionError(f"a task that is {phase.name} cannot take the step {step.name}")
    return following
