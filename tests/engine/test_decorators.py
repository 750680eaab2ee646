"""Declaring a task: what is wrong is refused at the decorator."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from taskflow_otel import (
    ConfigurationError,
    DuplicateTaskNameError,
    QueueConfig,
    TaskManager,
    UnknownQueueError,
)
from taskflow_otel.engine.decorators import TaskDecorators
from taskflow_otel.engine.registry import TaskRegistry
from taskflow_otel.model.task_options import TaskOptions, make_task_config
from tests.engine.declared_tasks import job, later_numbers, numbers


def plain_job() -> None:
    """Do nothing, in a thread."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": -1}, "retries must be a whole number of at least 0, not -1"),
        ({"retries": 1.5}, "retries must be a whole number"),
        ({"delay": -1}, "delay must be at least 0 seconds"),
        ({"delay": "soon"}, "delay must be a number of seconds or a timedelta"),
        ({"backoff": 0}, "backoff must be a number above 0"),
        ({"max_delay": -1}, "max_delay must be at least 0 seconds"),
        ({"jitter": 2}, "jitter must be a share between 0 and 1"),
        ({"timeout": 0}, "timeout must be more than 0 seconds"),
        ({"retry_on": ValueError()}, "retry_on must be an exception class or a tuple of them"),
        ({"no_retry_on": "ValueError"}, "no_retry_on must be an exception class or a tuple of them"),
        ({"priority": "high"}, "priority must be a whole number"),
        ({"name": ""}, "a task name must be 1 to 200 printable characters"),
        ({"name": "two\nlines"}, "a task name must be 1 to 200 printable characters"),
        ({"executor": "celery"}, "executor must be one of async, thread, process"),
        ({"executor": "thread"}, "is an async function, so executor='thread' cannot run it"),
    ],
)
def test_a_wrong_option_is_an_error_at_decoration(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TaskManager().task(**options)(job)


def test_a_plain_function_cannot_be_run_on_the_event_loop() -> None:
    with pytest.raises(ConfigurationError, match=r"plain_job is not an async function.*Leave executor out"):
        TaskManager().task(executor="async")(plain_job)


def test_two_tasks_of_one_name_are_an_error_that_names_both() -> None:
    manager = TaskManager()
    manager.task()(job)
    with pytest.raises(DuplicateTaskNameError, match=r"'job' is taken by .*job; .*plain_job.*task\(name=") as caught:
        manager.task(name="job")(plain_job)
    assert isinstance(caught.value, ValueError)


def test_an_unknown_queue_is_an_error_at_decoration() -> None:
    manager = TaskManager(queues={"mail": QueueConfig(concurrency=2)})
    with pytest.raises(UnknownQueueError, match=r"no queue 'male' \(known: default, mail\).*Declare it: TaskManager"):
        manager.task(queue="male")(job)


@pytest.mark.parametrize("name", ["idempotency_key", "tags", "eager", "priority", "queue", "delay", "run_at"])
def test_a_parameter_that_add_task_takes_for_itself_is_an_error_at_decoration(name: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def work({name}=None): ...", scope)
    with pytest.raises(ConfigurationError, match=f"has a parameter '{name}', which is an option of add_task.*Rename"):
        TaskManager().task()(scope["work"])


@pytest.mark.parametrize("generator", [numbers, later_numbers])
def test_a_generator_is_no_task(generator: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="is a generator; a task must be a function that runs to its end"):
        TaskManager().task()(generator)


def test_what_the_decorator_is_given_is_what_the_task_type_has() -> None:
    registry = TaskRegistry()
    options: TaskOptions = {"retries": 2, "delay": timedelta(seconds=3), "timeout": 5, "priority": 7, "persist": True}
    TaskDecorators(TaskManager().engine, registry).task(None, options)(job)
    found = registry.find(job)
    assert found is not None
    expected: TaskOptions = {**options, "executor": "async"}
    assert found.config == make_task_config(name=job.__name__, **expected)


def test_a_decorator_without_its_parentheses_or_the_names_of_its_options_says_so() -> None:
    manager = TaskManager()
    with pytest.raises(ConfigurationError, match=r"needs its parentheses: @task_manager\.task\(\)"):
        manager.task(job)  # type: ignore[call-arg, arg-type]  # that is the mistake
    with pytest.raises(ConfigurationError, match=r"needs its parentheses: @task_manager\.schedule\(every=60\)"):
        manager.schedule(job)  # type: ignore[call-arg, arg-type]
    with pytest.raises(ConfigurationError, match="task\\(\\) takes options by name, such as name=, not 'mail'"):
        manager.task("mail")  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="schedule\\(\\) takes options by name"):
        manager.schedule(60)  # type: ignore[call-arg]
