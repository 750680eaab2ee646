"""Options are checked where they are given, and the waits between attempts follow from them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.options import Exceptions, QueueConfig, RetryPolicy, checked_release
from taskflow_otel.model.task_options import make_task_config


@pytest.mark.parametrize(
    ("exc", "allowed"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), False),
        (ValueError(), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_no_retry_on_wins_over_retry_on(exc: BaseException, allowed: bool) -> None:
    policy = make_task_config(
        name="send", executor="async", retries=1, retry_on=OSError, no_retry_on=(TimeoutError,)
    ).retry
    assert policy.allows(exc, 0) is allowed


def test_retries_are_counted_after_the_first_attempt() -> None:
    policy = RetryPolicy(retries=2)
    assert [policy.allows(ValueError(), used) for used in range(4)] == [True, True, False, False]


def test_the_wait_grows_by_the_backoff_up_to_its_cap() -> None:
    policy = RetryPolicy(retries=9, delay=1.0, backoff=2.0, max_delay=5.0)
    assert [policy.wait(used, 0.5) for used in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]


@pytest.mark.parametrize(("draw", "wait"), [(0.0, 9.0), (0.5, 10.0), (1.0, 11.0)])
def test_jitter_spreads_the_wait_around_its_nominal_length(draw: float, wait: float) -> None:
    assert RetryPolicy(delay=10.0, jitter=0.1).wait(0, draw) == pytest.approx(wait)


@given(
    delay=st.floats(0, 1e9),
    backoff=st.floats(1e-3, 1e9),
    jitter=st.floats(0, 1),
    used=st.integers(0, 10**6),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_every_wait_is_finite_and_not_negative(
    delay: float, backoff: float, jitter: float, used: int, draw: float
) -> None:
    wait = RetryPolicy(delay=delay, backoff=backoff, jitter=jitter).wait(used, draw)
    assert 0.0 <= wait <= max(60 * 86_400.0, 2 * delay)
    assert datetime(2100, 1, 1, tzinfo=UTC) + timedelta(seconds=wait) > datetime(2099, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"concurrency": 1.5}, {"max_size": -1}, {"max_size": True}])
def test_a_queue_refuses_limits_that_are_invalid(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"QueueConfig.{next(iter(options))}"):
        QueueConfig(**options)


def test_the_queue_of_celery_is_that_of_a_queue_that_runs_there() -> None:
    assert QueueConfig(run="celery", celery_queue="video").celery_queue == "video"
    for options in ({"celery_queue": "video"}, {"run": "celery", "celery_queue": ""}, {"run": "elsewhere"}):
        with pytest.raises(ConfigurationError):
            QueueConfig(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="concurrency_scope='fleet' needs run='pool'"):
        QueueConfig(run="celery", concurrency=2, concurrency_scope="fleet")


def test_a_queue_may_hold_no_waiting_task_or_any_number() -> None:
    assert QueueConfig(concurrency=1, max_size=0).max_size == 0
    assert QueueConfig().concurrency is None


BOTH = ExceptionGroup("both", [ConnectionError(), ExceptionGroup("inner", [TimeoutError()])])
ONE_OF_TWO = ExceptionGroup("one of two", [ConnectionError(), ValueError()])
INTERRUPTED = BaseExceptionGroup("interrupted", [ConnectionError(), KeyboardInterrupt()])


@pytest.mark.parametrize(
    ("group", "retry_on", "no_retry_on", "allowed"),
    [
        (BOTH, Exception, (), True),
        (BOTH, (ConnectionError, TimeoutError), (), True),
        (BOTH, ConnectionError, ValueError, False),
        (ONE_OF_TWO, Exception, (), True),
        (ONE_OF_TWO, ConnectionError, (), False),
        (ONE_OF_TWO, Exception, ValueError, False),
        (ONE_OF_TWO, ExceptionGroup, (), True),
        (ONE_OF_TWO, ExceptionGroup, ValueError, False),
        (ONE_OF_TWO, Exception, ExceptionGroup, False),
        (INTERRUPTED, Exception, (), False),
        (INTERRUPTED, BaseException, (), True),
    ],
)
def test_a_group_of_exceptions_earns_another_attempt_if_each_of_them_does(
    group: BaseException, retry_on: Exceptions, no_retry_on: Exceptions, allowed: bool
) -> None:
    config = make_task_config(name="t", executor="async", retries=1, retry_on=retry_on, no_retry_on=no_retry_on)
    assert config.retry.allows(group, 0) is allowed


class OddlyChecked(type):
    """A metaclass whose classes cannot be asked."""

    def __instancecheck__(cls, instance: object) -> bool:
        raise SystemExit("instance")

    def __subclasscheck__(cls, other: type) -> bool:
        raise ValueError("subclass")


class Odd(Exception, metaclass=OddlyChecked):
    pass


class Nameless(Exception):
    """An exception that hides what it is."""

    @property  # type: ignore[misc]  # as odd objects do
    def __class__(self) -> type:
        raise RuntimeError("no class")


class OddGroup(ExceptionGroup):
    """A group that computes its exceptions."""

    @property
    def exceptions(self) -> Any:
        raise RuntimeError("no exceptions")


@pytest.mark.parametrize(
    ("make", "retry_on", "no_retry_on", "expected"),
    [
        (lambda: ValueError(), (Odd,), (), False),
        (lambda: ValueError(), (Odd, ValueError), (), True),
        (lambda: ValueError(), (Exception,), (Odd,), True),
        (lambda: Odd(), (Odd,), (), True),
        (lambda: Odd(), (Exception,), (Odd,), False),
        (lambda: Nameless(), (Nameless,), (), True),
        (lambda: Nameless(), (ValueError,), (), False),
        (lambda: OddGroup("", [ValueError()]), (ValueError,), (), True),
        (lambda: OddGroup("", [ValueError()]), (Exception,), (Odd, ValueError), False),
        (lambda: ExceptionGroup("", [Nameless(), Odd()]), (Odd, Nameless), (), True),
        (lambda: ExceptionGroup("", [ValueError()]), (Odd,), (), False),
    ],
)
def test_classes_and_exceptions_that_cannot_be_asked_are_judged_by_what_they_inherit_from(
    make: Callable[[], Exception],
    retry_on: tuple[type[Exception], ...],
    no_retry_on: tuple[type[Exception], ...],
    expected: bool,
) -> None:
    policy = RetryPolicy(retries=1, retry_on=retry_on, no_retry_on=no_retry_on)
    assert policy.allows(make(), 0) is expected


@pytest.mark.parametrize("release", ["", "x" * 201, "a\nb", 7, b"1"], ids=repr)
def test_a_release_is_a_short_text(release: object) -> None:
    with pytest.raises(ConfigurationError, match="release must be"):
        checked_release(release)


def test_no_release_is_an_empty_label() -> None:
    assert [checked_release(release) for release in (None, "1.4.2")] == ["", "1.4.2"]
