"""Every error of the library: one base, the standard exception that it means, and a sentence that says what to do."""

from __future__ import annotations

import inspect

import pytest

import taskflow_otel
from taskflow_otel import errors

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, Exception)]
STANDARD = {
    errors.ConfigurationError: ValueError,
    errors.MissingExtraError: ImportError,
    errors.UnknownQueueError: LookupError,
    errors.UnknownTaskError: LookupError,
    errors.UnknownScheduleError: LookupError,
    errors.TaskArgumentError: TypeError,
    errors.TaskNotFoundError: LookupError,
    errors.TaskTimeoutError: TimeoutError,
    errors.NotStartedError: RuntimeError,
    errors.BackendUnavailableError: ConnectionError,
}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_one_except_catches_every_error_and_a_user_can_import_it(cls: type[Exception]) -> None:
    assert issubclass(cls, errors.TaskflowError)
    assert inspect.getdoc(cls)
    assert getattr(taskflow_otel, cls.__name__) is cls


@pytest.mark.parametrize(("cls", "standard"), STANDARD.items(), ids=lambda cls: cls.__name__)
def test_who_knows_nothing_of_the_library_catches_what_it_means(
    cls: type[Exception], standard: type[Exception]
) -> None:
    assert issubclass(cls, standard)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (errors.MissingExtraError("RedisBackend", "redis"), "pip install 'taskflow-otel[redis]'"),
        (errors.UnknownQueueError("male", ["mail", "default"]), "(known: default, mail)"),
        (errors.UnknownTaskError("send"), "Import the module that declares it"),
        (errors.QueueFullError("mail", 5), "Answer 503"),
        (errors.DeclaredDeadError("host-1-x"), "try again"),
        (errors.SchemaVersionError("tasks.db", 9, 3), "Upgrade taskflow-otel"),
        (errors.NotStartedError(), "await task_manager.startup()"),
        (errors.TaskNotFoundError("x"), "'x'"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_message_says_what_to_do(error: Exception, says: str) -> None:
    assert says in str(error)


def test_an_error_for_good_may_be_divided_and_one_that_passes_only_if_it_says_so() -> None:
    assert errors.BackendError("x", transient=False).divisible
    assert not errors.BackendError("x").divisible
    assert errors.BackendError("x", divisible=True).divisible
    assert not errors.BackendError("x", transient=False, divisible=False).divisible
