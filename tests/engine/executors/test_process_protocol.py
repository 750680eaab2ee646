"""How functions and exceptions get from one process to another."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from taskflow_otel.engine.executors.process_protocol import (
    MAX_EXCEPTION_BYTES,
    ChildFailure,
    importable,
    load_function,
    pack_failure,
    revive,
)
from taskflow_otel.engine.failure import describe_failure
from tests.engine.executors import process_tasks


def plain() -> str:
    return "plain"


def decorated(func: Callable[[], str]) -> Callable[[], str]:
    @functools.wraps(func)
    def wrapper() -> str:
        return f"decorated {func()}"

    return wrapper


@decorated
@decorated
def wrapped() -> str:
    return "wrapped"


class Shelf:
    @staticmethod
    def inner() -> str:
        return "inner"


@pytest.mark.parametrize(
    "func",
    [plain, wrapped, wrapped.__wrapped__, wrapped.__wrapped__.__wrapped__, Shelf.inner],  # type: ignore[attr-defined]
)
def test_a_function_is_found_by_its_name_below_its_decorators(func: Callable[[], str]) -> None:
    reference = importable(func)
    assert reference is not None
    assert load_function(reference) is func


@pytest.mark.parametrize("func", [lambda: None, functools.partial(plain), Shelf().__init__, print.__call__])  # type: ignore[misc,operator]  # odd handles
def test_a_function_without_a_name_of_its_own_cannot_be_imported(func: Callable[..., object]) -> None:
    assert importable(func) is None


def test_a_module_that_no_path_leads_to_is_loaded_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hidden_tasks.py").write_text("def task():\n    return 'found'\n")
    monkeypatch.syspath_prepend(tmp_path)
    import hidden_tasks  # type: ignore[import-not-found]

    reference = importable(hidden_tasks.task)
    assert reference is not None
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "hidden_tasks")
    assert load_function(reference)() == "found"
    monkeypatch.delitem(sys.modules, "hidden_tasks")


def test_a_module_that_fails_to_import_another_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needy_tasks.py").write_text("import taskflow_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    reference = importable(plain)
    assert reference is not None
    with pytest.raises(ModuleNotFoundError, match="taskflow_missing"):
        load_function(type(reference)("needy_tasks", "task", 0, str(tmp_path / "needy_tasks.py")))


def sent(exc: BaseException) -> ChildFailure:
    return pack_failure(exc, describe_failure(exc))


def test_an_exception_that_can_travel_keeps_its_attributes() -> None:
    exc = process_tasks.PlainError("a", 2)
    exc.add_note("noted")
    revived = revive(sent(exc))
    assert (type(revived), revived.args, revived.__notes__) == (process_tasks.PlainError, ("a", 2), ["noted"])


@pytest.mark.parametrize(
    ("exc", "cls"),
    [
        (process_tasks.LockedError("x"), process_tasks.LockedError),
        (process_tasks.TwoArgumentsError(1, "x"), process_tasks.TwoArgumentsError),
        (process_tasks.PlainError("x" * MAX_EXCEPTION_BYTES), process_tasks.PlainError),
        (ExceptionGroup("x", [process_tasks.LockedError("y")]), Exception),
        (type("Nameless", (KeyError,), {})(), KeyError),
    ],
)
def test_of_one_that_cannot_the_nearest_class_remains(exc: Exception, cls: type[Exception]) -> None:
    assert type(revive(sent(exc))) is cls


def test_a_class_of_a_module_that_is_not_imported_here_is_not_imported_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far_errors.py").write_text("class FarError(LookupError):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import far_errors  # type: ignore[import-not-found]

    failure = sent(far_errors.FarError("x"))
    monkeypatch.delitem(sys.modules, "far_errors")
    assert type(revive(failure)) is LookupError
    assert "far_errors" not in sys.modules
