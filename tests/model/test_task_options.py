"""The table of task options, what is made from it, and that each other place which names options agrees with it."""

from __future__ import annotations

import inspect
import math
from dataclasses import fields
from datetime import timedelta
from typing import Any, get_type_hints

import pytest

from taskflow_otel import TaskManager
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.options import RetryPolicy
from taskflow_otel.model.task_options import TASK_OPTIONS, TaskConfig, TaskOptions, make_task_config

CONFIGURED = [field.name for field in fields(TaskConfig)]


def test_the_types_and_the_configuration_have_the_options_of_the_table() -> None:
    assert list(TaskOptions.__annotations__) == list(TASK_OPTIONS)
    assert sorted(CONFIGURED) == sorted([*TASK_OPTIONS, "name", "retry"])


def test_the_defaults_of_the_configuration_are_those_of_the_table() -> None:
    assert make_task_config(name="send", executor="async") == TaskConfig(name="send")


@pytest.mark.parametrize("method", [TaskManager.task, TaskManager.schedule])
def test_a_decorator_shows_every_option_with_its_type_and_default(method: Any) -> None:
    parameters = inspect.signature(method).parameters
    hints = get_type_hints(TaskOptions)
    for name, option in TASK_OPTIONS.items():
        parameter = parameters[name]
        assert (parameter.kind, parameter.default) == (inspect.Parameter.KEYWORD_ONLY, option.default)
        assert parameter.annotation == hints[name]
    assert [one for one in parameters.values() if one.kind is inspect.Parameter.VAR_KEYWORD] == []


def test_every_option_is_explained_where_it_is_given() -> None:
    assert TaskManager.task.__doc__ is not None
    assert [name for name in TASK_OPTIONS if f"`{name}`" not in TaskManager.task.__doc__] == []


@pytest.mark.parametrize("options", [{"retires": 3}, {"retries": 3, "max_retries": 3}])
def test_an_option_that_does_not_exist_is_an_error_at_the_decorator(options: dict[str, Any]) -> None:
    manager = TaskManager()
    for decorator in (manager.task, lambda **given: manager.schedule(every=1, **given)):
        with pytest.raises(TypeError, match=r"a task has no option (retires|max_retries); it has retries, delay"):
            decorator(**options)


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
