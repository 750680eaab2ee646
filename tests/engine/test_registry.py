"""Handles: whatever leads to a declared function has its options; whatever cannot be a task is refused."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import MethodType
from typing import Annotated, Any

import pytest
from fastapi import Body, Cookie, Depends, File, Form, Header, Query, Security
from fastapi import Path as PathParameter

from taskflow_otel import ConfigurationError, TaskManager, TaskStatus
from taskflow_otel.errors import TaskArgumentError
from taskflow_otel.model.options import ExecutorName
from taskflow_otel.testing.clock import FakeClock
from tests.ledger.fleet import LONG_AGO
from tests.managers import finish, started


class Declared:
    """A manager with a durable store, and one task behind every kind of handle, which fails the first time."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.manager = manager = TaskManager(snapshot_db=directory / "tasks.db", **settings)
        self.seen = list[tuple[Any, ...]]()
        run = self.run

        @manager.task(name="plain", persist=True, retries=2)
        async def plain(a: int, b: int = 0) -> None:
            run(a, b)

        def logged(func: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
            @functools.wraps(func)
            async def wrapper(*args: Any, **kwargs: Any) -> None:
                await func(*args, **kwargs)

            return wrapper

        class Mailer:
            @staticmethod
            @manager.task(name="static inside", persist=True, retries=1)
            async def inside(a: int) -> None:
                run(a)

            @manager.task(name="static outside", persist=True, retries=1)
            @staticmethod
            async def outside(a: int) -> None:
                run(a)

            @manager.task(name="method", retries=2)
            async def method(self, a: int) -> None:
                run(type(self).__name__, a)

            @classmethod
            @manager.task(name="class method", retries=2)
            async def of_class(cls, a: int) -> None:
                run(cls.__name__, a)

            @manager.task(name="kept method", persist=True)
            async def kept(self, a: int) -> None: ...

        self.plain, self.mailer = plain, Mailer()
        self.handles: dict[str, tuple[Callable[..., Any], str, tuple[Any, ...]]] = {
            "partial": (functools.partial(plain, 1), "plain", (1, 7)),
            "partial of a partial": (functools.partial(functools.partial(plain), b=7), "plain", (7, 7)),
            "outer decorator": (logged(plain), "plain", (7, 0)),
            "partial of an outer decorator": (functools.partial(logged(plain), 1), "plain", (1, 7)),
            "bound to a value": (MethodType(plain, 1), "plain", (1, 7)),
            "static method": (Mailer.inside, "static inside", (7,)),
            "static method of an instance": (self.mailer.inside, "static inside", (7,)),
            "task over static method": (Mailer.outside, "static outside", (7,)),
            "method": (self.mailer.method, "method", ("Mailer", 7)),
            "method of the class": (functools.partial(Mailer.method, self.mailer), "method", ("Mailer", 7)),
            "class method": (Mailer.of_class, "class method", ("Mailer", 7)),
            "class method of an instance": (self.mailer.of_class, "class method", ("Mailer", 7)),
        }

    def run(self, *arguments: Any) -> None:
        """What every task does."""
        self.seen.append(arguments)
        if len(self.seen) == 1:
            raise ConnectionError("once more")


HANDLES = [
    "partial", "partial of a partial", "outer decorator", "partial of an outer decorator", "bound to a value",
    "static method", "static method of an instance", "task over static method", "method", "method of the class",
    "class method", "class method of an instance",
]  # fmt: skip
KEPT = HANDLES[: HANDLES.index("method")]
"""Those of persisted tasks."""


@pytest.mark.parametrize("kind", HANDLES)
async def test_every_handle_has_the_options_of_its_declaration(kind: str, tmp_path: Path) -> None:
    declared = Declared(tmp_path)
    handle, name, arguments = declared.handles[kind]
    config = declared.manager._registry.get(name).config
    async with started(declared.manager) as manager:
        record = await finish(manager, await manager.enqueue(handle, 7))
    assert (record.status, record.func_name) == (TaskStatus.SUCCESS, name)
    assert record.persisted is config.persist
    assert (record.retries_used, declared.seen) == (1, [arguments] * 2)


@pytest.mark.parametrize("kind", KEPT)
async def test_a_persisted_handle_runs_in_the_next_life_of_its_process(kind: str, tmp_path: Path) -> None:
    # What is delayed is never due by this clock, and is overdue by that of the next life.
    first = Declared(tmp_path, clock=FakeClock(LONG_AGO))
    handle, name, arguments = first.handles[kind]
    async with started(first.manager) as manager:
        task_id = await manager.enqueue(handle, 7, delay=60)
    assert first.seen == []
    second = Declared(tmp_path)
    async with started(second.manager) as manager:
        record = await finish(manager, task_id)
    assert (record.status, record.func_name, record.retries_used) == (TaskStatus.SUCCESS, name, 1)
    assert (first.seen, second.seen) == ([], [arguments] * 2)


async def test_a_persisted_method_of_an_object_that_cannot_be_stored_is_refused_at_the_call(tmp_path: Path) -> None:
    declared = Declared(tmp_path)
    async with started(declared.manager) as manager:
        with pytest.raises(TaskArgumentError, match="'self'"):
            await manager.enqueue(declared.mailer.kept, 1)
    assert declared.seen == []


def test_a_class_method_below_the_decorator_is_refused_with_the_right_order() -> None:
    manager = TaskManager()

    def build(cls: type) -> None: ...

    with pytest.raises(ConfigurationError, match="@classmethod"):
        manager.task()(classmethod(build))  # type: ignore[arg-type]  # that is what is refused


async def test_an_object_that_claims_to_wrap_itself_is_a_plain_function() -> None:
    def endless() -> None: ...

    endless.__wrapped__ = endless  # type: ignore[attr-defined]  # as some proxies do
    async with started(TaskManager()) as manager:
        record = await finish(manager, await manager.enqueue(endless))
    assert (record.status, record.func_name) == (TaskStatus.SUCCESS, "endless")


async def test_a_task_of_another_manager_is_refused() -> None:
    other = TaskManager()

    @other.task()
    async def theirs(number: int) -> None: ...

    async with started(other), started(TaskManager()) as manager:
        for handle in (theirs, functools.partial(theirs, 1)):
            with pytest.raises(ConfigurationError, match="another TaskManager"):
                await manager.enqueue(handle, 1)


async def test_a_function_declared_by_both_managers_is_a_task_of_each() -> None:
    first, second = TaskManager(), TaskManager()

    async def shared() -> None: ...

    first.task(name="first")(shared)
    second.task(name="second")(shared)
    async with started(first), started(second):
        assert (await finish(second, await second.enqueue(shared))).func_name == "second"


MARKERS = [Depends(dict), Security(dict), Query(), Header(), Cookie(), Body(), Form(), File(), PathParameter()]


@pytest.mark.parametrize("marker", MARKERS, ids=lambda marker: type(marker).__name__)
@pytest.mark.parametrize("place", ["default", "annotated", "written"])
def test_what_fastapi_fills_in_is_refused_at_decoration(marker: Any, place: str) -> None:
    def as_default(a: int, b: Any = marker) -> None: ...

    def annotated(a: int, b: Any) -> None: ...

    annotated.__annotations__["b"] = Annotated[int, marker]

    def written(a: int, b: Any) -> None: ...

    written.__globals__["_marker_of_the_test"] = marker
    written.__annotations__["b"] = "Annotated[int, _marker_of_the_test]"
    func = {"default": as_default, "annotated": annotated, "written": written}[place]
    with pytest.raises(ConfigurationError, match=rf"'b' .* is a {type(marker).__name__}\(\.\.\.\)"):
        TaskManager().task()(func)

    def other(b: Any = marker) -> None: ...

    with pytest.raises(ConfigurationError):
        TaskManager().schedule(every=60)(as_default if place == "default" else other)


@pytest.mark.parametrize("persist", [True, False])
@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_arguments_that_the_function_cannot_take_are_refused_at_the_call(
    executor: ExecutorName, persist: bool, tmp_path: Path
) -> None:
    manager = TaskManager(snapshot_db=tmp_path / "tasks.db")
    job = manager.task(executor=executor, persist=persist)(sums)
    async with started(manager):
        for args, kwargs in (((), {}), ((1, 2, 3), {}), ((1,), {"secnod": 2}), ((1,), {"first": 2})):
            with pytest.raises(TaskArgumentError, match="cannot be called with these arguments"):
                await manager.enqueue(job, *args, **kwargs)


def sums(first: int, second: int = 0) -> int:
    return first + second


@pytest.mark.parametrize("options", [{"queue": ""}, {"tags": 0}, {"tags": ""}, {"tags": []}, {"priority": ""}])
async def test_an_option_that_is_false_is_not_taken_for_absent(options: dict[str, Any]) -> None:
    manager = TaskManager()

    @manager.task()
    async def job() -> None: ...

    async with started(manager):
        with pytest.raises(ConfigurationError):
            await manager.enqueue(job, **options)


@pytest.mark.parametrize("options", [{"executor": ""}, {"queue": ""}, {"name": ""}])
def test_an_option_of_the_declaration_that_is_empty_is_not_taken_for_absent(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        TaskManager().task(**options)(lambda: None)


# What returns an awaitable.


# What runs is what was stored.


def take(note: str, items: list[int]) -> None:
    with Path(note).open("a") as seen:
        print(*items, file=seen)
    items.append(99)
    if Path(note).read_text().count("\n") == 1:
        raise RuntimeError("once more")


async def take_async(note: str, items: list[int]) -> None:
    take(note, items)


@pytest.mark.parametrize("executor", ["async", "thread", "process"])
async def test_a_persisted_task_sees_neither_later_changes_nor_those_of_an_earlier_attempt(
    executor: ExecutorName, tmp_path: Path
) -> None:
    manager = TaskManager(snapshot_db=tmp_path / "tasks.db", max_process_workers=1)
    func = take_async if executor == "async" else take
    job = manager.task(name="job", persist=True, retries=1, executor=executor)(func)
    note, items = tmp_path / "note", [1, 2]
    async with started(manager):
        created = manager.engine.door.add(job, (str(note), items), {})
        items.clear()
        assert created.task is not None
        await manager.engine.door.make_known([created.task])
        manager.engine.door.hand_over([created.task])
        record = await manager.wait(created.task_id, 60)
    assert (record.status, record.executor) == (TaskStatus.SUCCESS, executor)
    assert note.read_text() == "1 2\n1 2\n"
