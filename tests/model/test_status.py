"""The table of legal transitions, and what follows from it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import taskflow_otel
from taskflow_otel.errors import IllegalTransitionError, TaskflowError
from taskflow_otel.model.status import (
    FINISHED_STATUSES,
    KEY_HOLDING_STATUSES,
    LIVE_STATUSES,
    TRANSITIONS,
    TaskStatus,
    Transition,
    next_status,
)

S, T = TaskStatus, Transition

LEGAL: dict[tuple[TaskStatus | None, Transition], TaskStatus] = {
    (None, T.ENQUEUED): S.PENDING,
    (None, T.REJECTED): S.REJECTED,
    (S.PENDING, T.STARTED): S.RUNNING,
    (S.PENDING, T.CANCELLED): S.CANCELLED,
    (S.PENDING, T.REJECTED): S.REJECTED,
    (S.PENDING, T.RECOVERED): S.PENDING,
    (S.RUNNING, T.SUCCEEDED): S.SUCCESS,
    (S.RUNNING, T.FAILED): S.FAILED,
    (S.RUNNING, T.CANCELLED): S.CANCELLED,
    (S.RUNNING, T.INTERRUPTED): S.INTERRUPTED,
    (S.RUNNING, T.RETRY_SCHEDULED): S.PENDING,
    (S.RUNNING, T.RECOVERED): S.PENDING,
    (S.PENDING, T.OBJECTIVE_MISSED): S.PENDING,
    (S.RUNNING, T.OBJECTIVE_MISSED): S.RUNNING,
}

PAIRS = list(itertools.product([None, *TaskStatus], Transition))


@pytest.mark.parametrize(("before", "transition"), PAIRS)
def test_every_pair_of_state_and_transition_leads_where_the_picture_says_or_raises(
    before: TaskStatus | None, transition: Transition
) -> None:
    expected = LEGAL.get((before, transition))
    if expected is None:
        with pytest.raises(IllegalTransitionError, match=str(transition)) as caught:
            next_status(before, transition)
        assert isinstance(caught.value, TaskflowError)
        assert (before or "does not exist") in str(caught.value)
    else:
        assert next_status(before, transition) is expected


def test_the_states_are_the_lower_case_words_of_the_api() -> None:
    assert {str(status) for status in TaskStatus} == {
        "pending", "running", "success", "failed", "cancelled", "interrupted", "rejected",
    }  # fmt: skip


def test_no_transition_leaves_a_finished_state() -> None:
    assert not {before for before, _ in TRANSITIONS if before is not None and before.finished}


def test_every_state_can_be_reached_and_every_live_one_left() -> None:
    assert set(TRANSITIONS.values()) == set(TaskStatus)
    assert {before for before, _ in TRANSITIONS if before is not None} == LIVE_STATUSES


@pytest.mark.parametrize("status", TaskStatus)
def test_a_state_is_either_live_or_finished(status: TaskStatus) -> None:
    assert (status in LIVE_STATUSES) is not (status in FINISHED_STATUSES)
    assert status.finished is (status in FINISHED_STATUSES)


def test_an_idempotency_key_is_held_while_pending_running_or_successful() -> None:
    assert {S.PENDING, S.RUNNING, S.SUCCESS} == KEY_HOLDING_STATUSES


def test_the_documentation_shows_the_table_as_it_is() -> None:
    page = Path(taskflow_otel.__file__).parents[1] / "docs" / "architecture.md"
    rows = [
        line.strip("| ").split(" | ")
        for line in page.read_text().split("<!-- statuses -->")[1].splitlines()
        if "`" in line
    ]
    shown = {
        (before, transition, after)
        for befores, transitions, after in rows
        for before in befores.split(", ")
        for transition in transitions.replace("`", "").split(", ")
    }
    assert shown == {(before or "–", transition, after) for (before, transition), after in TRANSITIONS.items()}
