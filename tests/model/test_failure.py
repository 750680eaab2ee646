"""Failures of one kind have one fingerprint, whatever differs in them by chance."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow_otel.model import failure
from taskflow_otel.model.failure import (
    MAX_ATTEMPT_FAILURES,
    MAX_FRAMES,
    MAX_SUMMARY,
    AttemptFailure,
    fingerprint_of,
    frames_of,
    normalise,
    summary_of,
    with_failure,
)
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import Reason

HERE = failure.__file__
LIBRARY = "/usr/lib/python3.11/site-packages/httpx/_client.py"


def trace(*frames: tuple[str, int, str], said: str = "KeyError: 3") -> str:
    """A stack trace as Python writes it, through the engine."""
    lines = [f'  File "{file}", line {line}, in {function}\n    code()' for file, line, function in frames]
    begin = f'Traceback (most recent call last):\n  File "{HERE}", line 1, in run\n    call()'
    return "\n".join([begin, *lines, said])


def kind(**changes: Any) -> str | None:
    given_: dict[str, Any] = {
        "func_name": "charge",
        "status": TaskStatus.FAILED,
        "error_type": "KeyError",
        "error": "no order 17 for 'ada@example.com'",
        "stacktrace": trace(("/srv/1/shop/orders.py", 10, "charge"), (LIBRARY, 20, "get")),
    }
    return fingerprint_of(**{**given_, **changes})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, ""),
        ("user 42 not found", "user ‹n› not found"),
        ("can't open 'a.txt'\nsecond line", "can't open ‹value›"),
        ("task 01a1ffe6-a28e-73e0-87a5-3c9d2ba30b21 is gone", "task ‹id› is gone"),
        ("<object at 0x7f1a2b>", "<object at ‹address›>"),
        ("no mailbox ada@example.com", "no mailbox ‹address›"),
        ("commit 3f9a0c1d2e4b failed", "commit ‹id› failed"),
        ("HTTP2 is off", "HTTP2 is off"),
    ],
)
def test_errors_are_normalised_to_what_they_have_in_common(error: str | None, expected: str) -> None:
    assert normalise(error) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"error": "no order 4711 for 'bob@example.com'\nand a second line"},
        {"stacktrace": trace(("/srv/2/shop/orders.py", 99, "charge"), (LIBRARY, 21, "get"))},
        {"stacktrace": trace(("/srv/1/shop/orders.py", 10, "charge"), ("/opt/lib/python3.12/json/x.py", 1, "loads"))},
        {"stacktrace": trace(("/srv/1/shop/orders.py", 10, "charge"), ("/srv/1/shop/orders.py", 12, "charge"))},
        {"status": TaskStatus.PENDING},
        {"reason": Reason.RETRY_WAIT.value},
    ],
    ids=["values", "lines and folders", "frames of libraries", "recursion", "a retry is planned", "reason"],
)
def test_what_differs_by_chance_does_not_change_the_fingerprint(change: dict[str, Any]) -> None:
    assert kind(**change) == kind()


@pytest.mark.parametrize(
    "change",
    [
        {"func_name": "refund"},
        {"error_type": "OSError"},
        {"error": "no customer 17"},
        {"stacktrace": trace(("/srv/1/shop/orders.py", 10, "refund"))},
        {"status": TaskStatus.INTERRUPTED},
    ],
    ids=["type", "error type", "text", "own frames", "status"],
)
def test_what_is_another_problem_has_another_fingerprint(change: dict[str, Any]) -> None:
    assert kind(**change) != kind()


def test_interrupted_and_rejected_tasks_are_told_by_their_reason_and_what_is_meant_is_no_problem() -> None:
    lost = kind(status=TaskStatus.INTERRUPTED, reason=Reason.PROCESS_DIED.value)
    assert lost == kind(status=TaskStatus.INTERRUPTED, reason=Reason.PROCESS_DIED.value, error="of instance one")
    assert lost != kind(status=TaskStatus.INTERRUPTED, reason=Reason.SHUTDOWN.value)
    assert kind(status=TaskStatus.REJECTED, reason=Reason.QUEUE_FULL.value) not in (None, lost)
    for reason in (Reason.DUPLICATE, Reason.OVERLAP):
        assert kind(status=TaskStatus.REJECTED, reason=reason.value) is None


def test_tasks_that_took_too_long_are_one_problem_wherever_they_were() -> None:
    times = [kind(error_type="TaskTimeoutError", stacktrace=trace(("/srv/a.py", 1, name))) for name in ("one", "other")]
    assert times[0] == times[1]


def test_the_users_code_is_told_from_libraries_also_if_it_is_installed() -> None:
    found = frames_of(trace(("/srv/shop/a.py", 3, "charge"), (LIBRARY, 4, "get"), ("<frozen runpy>", 5, "x")))
    assert [(one.file, one.line, one.function, one.own) for one in found] == [
        (HERE, 1, "run", False),
        ("/srv/shop/a.py", 3, "charge", True),
        (LIBRARY, 4, "get", False),
        ("<frozen runpy>", 5, "x", False),
    ]
    shop = "/venv/lib/python3.12/site-packages/shop/"
    cause = (
        f'Traceback (most recent call last):\n  File "{LIBRARY}", line 2, in connect\nOSError: no\n\ndirect cause:\n\n'
    )
    text = cause + trace((f"{shop}a.py", 3, "charge"), (LIBRARY, 4, "get"), (f"{shop}b.py", 1, "parse"))
    assert [one.own for one in frames_of(text)] == [False, False, True, False, True]
    group = '  | Traceback (most recent call last):\n  |   File "/srv/a.py", line 1, in x\n  |     raise'
    assert [one.file for one in frames_of(group)] == ["/srv/a.py"]
    assert frames_of(None) == []


def test_a_summary_is_bounded_and_names_the_innermost_own_frames() -> None:
    frames = [("/srv/shop/a.py", number, "f" * 1_000) for number in range(50)]
    kept = summary_of(3, "1" * 16, error_type="KeyError", error="x" * 9_000, stacktrace=trace(*frames))
    assert len(kept.error or "") == MAX_SUMMARY
    assert len(kept.frames) == MAX_FRAMES
    assert kept.frames[-1].startswith("/srv/shop/a.py:49 in ff")
    assert max(map(len, kept.frames)) <= 300
    many: tuple[AttemptFailure, ...] = ()
    for attempt in range(100):
        many = with_failure(many, summary_of(attempt, None))
    assert [one.attempt for one in many] == list(range(100 - MAX_ATTEMPT_FAILURES, 100))


@given(st.text(), st.text(), st.text(), st.text())
def test_any_texts_have_a_fingerprint(name: str, kind_: str, error: str, stack: str) -> None:
    found = fingerprint_of(name, TaskStatus.FAILED, error_type=kind_, error=error, stacktrace=stack)
    assert found is not None
    assert len(found) == 16
    summary_of(0, found, error_type=kind_, error=error, stacktrace=f'  File "{stack}", line 1, in {stack}')
