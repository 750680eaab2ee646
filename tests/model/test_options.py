"""Options are checked where they are given, and the waits between attempts follow from them."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.options import Exceptions, QueueConfig, RetryPolicy, make_task_config


def test_the_defaults_are_those_of_the_specification() -> None:
    config = make_task_config(name="send", executor="async")
    assert config.retry == RetryPolicy(retries=0, delay=0.0, backoff=1.0, max_delay=None, jitter=0.0)
    assert config.retry.retry_on == (Exception,)
    assert config.retry.no_retry_on == ()
    assert (config.timeout, config.priority, config.queue) == (None, None, None)
    assert (config.persist, config.requeue_on_interrupt, config.eager) == (False, False, False)


@pytest.mark.parametrize("option", ["delay", "max_delay", "timeout"])
def test_a_duration_may_be_a_timedelta(option: str) -> None:
    options: dict[str, Any] = {option: timedelta(minutes=1.5)}
    config = make_task_config(name="send", executor="async", **options)
    assert (config.timeout if option == "timeout" else getattr(config.retry, option)) == 90.0


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("name", ""), ("name", "x" * 201), ("name", "a\nb"), ("name", 5),
        ("executor", "fiber"),
        ("retries", -1), ("retries", 1.5), ("retries", True), ("retries", "3"),
        ("delay", -1), ("delay", math.nan), ("delay", math.inf), ("delay", "1"), ("delay", True),
        ("delay", timedelta(seconds=-1)), ("max_delay", -0.1),
        ("backoff", 0), ("backoff", -2.0), ("backoff", math.inf), ("backoff", "2"), ("backoff", True),
        ("jitter", -0.1), ("jitter", 1.1), ("jitter", math.nan), ("jitter", False),
        ("timeout", 0), ("timeout", -1), ("timeout", timedelta(0)),
        ("priority", 1.5), ("priority", True), ("priority", "high"),
        ("retry_on", "ValueError"), ("retry_on", [ValueError]), ("retry_on", (ValueError, 5)), ("no_retry_on", int),
    ],
)  # fmt: skip
def test_a_wrong_option_is_refused_by_its_name(option: str, value: Any) -> None:
    options: dict[str, Any] = {"name": "send", "executor": "async", option: value}
    with pytest.raises(ConfigurationError, match=option.replace("name", "task name")):
        make_task_config(**options)


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
    assert datetime(2100, 1, 1, tzinfo=UTC) + timedelta(seconds=wait)


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"concurrency": 1.5}, {"max_size": -1}, {"max_size": True}])
def test_a_queue_refuses_limits_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"QueueConfig.{next(iter(options))}"):
        QueueConfig(**options)


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
