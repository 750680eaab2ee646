"""Every operation of the backend is timed, and shows whether the backend answers."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

import pytest

from taskflow_otel import TaskManager, TaskStatus
from taskflow_otel.backends import MemoryBackend, admin, failures, pool, transactions
from taskflow_otel.backends.base import Applied, Backend, Change
from taskflow_otel.backends.measured import MeasuredBackend
from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.model.query import Instance
from taskflow_otel.testing.clock import FakeClock
from tests.managers import finish, started
from tests.waiting import eventually

KEEPS = {
    name: get_type_hints(member.fget)["return"]
    for module in (admin, failures, pool, transactions)
    for kind, protocol in inspect.getmembers(module, inspect.isclass)
    if kind.startswith("Keeps")
    for name, member in inspect.getmembers(protocol, lambda found: isinstance(found, property))
}
"""The stores that a backend may have: the attribute, and its contract."""


def operations(contract: type) -> list[str]:
    """The coroutines of a contract."""
    return sorted(name for name, _ in inspect.getmembers(contract, inspect.iscoroutinefunction))


OPERATIONS = [
    *(("", name) for name in operations(Backend) if name not in {"open", "close", "apply"}),
    *((attribute, name) for attribute, contract in sorted(KEEPS.items()) for name in operations(contract)),
]


class Obedient:
    """Something whose every method is a coroutine that returns what it was called with."""

    name, durable, exclusive = "obedient", True, False

    def __getattr__(self, name: str) -> Any:
        async def answer(*args: object, **kwargs: object) -> object:
            return name, args, kwargs

        return answer


class Complete(Obedient):
    """A backend that has every store."""

    def __init__(self) -> None:
        for attribute in KEEPS:
            setattr(self, attribute, Obedient())


class Doubtful(MemoryBackend):
    """A backend whose list of instances is what the test says."""

    def __init__(self, answer: Callable[[], BaseException | None]) -> None:
        super().__init__()
        # The one store that a backend in memory cannot have.
        self.transaction_store: Any = Obedient()
        self.answer = answer
        self.hangs = False

    async def instances(self) -> list[Instance]:
        if self.hangs:
            await asyncio.Event().wait()
        if (error := self.answer()) is not None:
            raise error
        return []


class Scene:
    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.clock = FakeClock()
        self.seen: list[tuple[str, str, str, float]] = []
        self.inner = Doubtful(lambda: self.error)
        self.backend = MeasuredBackend(self.inner, self.clock, lambda *one: self.seen.append(one))


def test_it_is_a_backend_with_the_stores_that_the_backend_has() -> None:
    scene = Scene()
    assert isinstance(scene.backend, Backend)
    assert (scene.backend.name, scene.backend.durable) == ("memory", False)
    assert set(KEEPS) >= {"audit_store", "operation_store", "figure_store", "failure_store", "pool_store"}
    assert all(hasattr(scene.backend, attribute) for attribute in KEEPS)
    for attribute in KEEPS:
        delattr(scene.inner, attribute)
    without = MeasuredBackend(scene.inner, scene.clock, lambda *_: None)
    assert not any(hasattr(without, attribute) for attribute in KEEPS)


@pytest.mark.parametrize(("attribute", "name"), OPERATIONS, ids=lambda part: part or "backend")
async def test_every_operation_is_passed_on_and_measured_under_a_name_of_its_own(attribute: str, name: str) -> None:
    seen: list[str] = []
    inner: Any = Complete()
    measured = MeasuredBackend(inner, FakeClock(), lambda _, operation, *rest: seen.append(operation))
    target, contract = (getattr(measured, attribute), KEEPS[attribute]) if attribute else (measured, Backend)
    signature = inspect.signature(getattr(contract, name))
    assert inspect.signature(getattr(type(target), name)) == signature
    _, *parameters = signature.parameters.values()
    given = {one.name: object() for one in parameters}
    answer = await getattr(target, name)(**given)
    assert seen == [f"{attribute.removesuffix('store')}{name}"]
    if signature.return_annotation != "None":
        called, args, kwargs = answer
        assert called == name
        named = dict(zip(given, args, strict=False)) | kwargs
        assert named == given


async def test_a_store_that_gets_no_answer_shows_that_the_backend_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()

    async def away(queues: object, *, others: bool) -> Any:
        raise BackendUnavailableError("away")

    with monkeypatch.context() as outage:
        outage.setattr(scene.inner.pool_store, "depth", away)
        with pytest.raises(BackendUnavailableError):
            await scene.backend.pool_store.depth(["mail"])
    assert scene.backend.failing
    await scene.backend.pool_store.depth(["mail"])
    assert not scene.backend.failing
    assert [one[:3] for one in scene.seen] == [("memory", "pool_depth", "error"), ("memory", "pool_depth", "ok")]


async def test_an_answer_and_an_error_are_counted_and_the_state_follows_them() -> None:
    scene = Scene()
    await scene.backend.instances()
    assert not scene.backend.failing
    scene.error = BackendUnavailableError("away")
    with pytest.raises(BackendUnavailableError):
        await scene.backend.instances()
    assert scene.backend.failing
    await scene.backend.settings("x")
    assert not scene.backend.failing
    scene.error = BackendError("never", transient=False)
    with pytest.raises(BackendError):
        await scene.backend.instances()
    assert not scene.backend.failing, "it did answer"
    assert [(operation, outcome) for _, operation, outcome, _ in scene.seen] == [
        ("instances", "ok"), ("instances", "error"), ("settings", "ok"), ("instances", "error"),
    ]  # fmt: skip


@pytest.mark.parametrize(("after", "counted"), [(0.5, []), (5.0, [("instances", "error", 5.0)])])
async def test_a_cancelled_operation_counts_if_it_had_its_time(
    after: float, counted: list[tuple[str, str, float]]
) -> None:
    scene = Scene()
    scene.inner.hangs = True
    asking = asyncio.create_task(scene.backend.instances())
    await scene.clock.advance(after)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert [one[1:] for one in scene.seen] == counted
    assert scene.backend.failing is bool(counted)


class PanicError(BaseException):
    """As extensions in Rust raise it: no `Exception`."""


@pytest.mark.parametrize("kind", [asyncio.CancelledError, PanicError])
async def test_what_a_driver_raises_that_is_no_exception_is_a_failure_that_passes(kind: type[BaseException]) -> None:
    scene = Scene()
    scene.error = kind()
    with pytest.raises(BackendUnavailableError, match="ended an operation by itself") as caught:
        await scene.backend.instances()
    assert caught.value.transient
    assert scene.backend.failing
    assert [one[1:3] for one in scene.seen] == [("instances", "error")]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_a_signal_that_ends_the_process_during_an_operation_does_so(kind: type[BaseException]) -> None:
    scene = Scene()
    scene.error = kind()
    with pytest.raises(kind):
        await scene.backend.instances()


class BrokenOnce(MemoryBackend):
    """A backend whose next write and next heartbeat raise what the test says."""

    def __init__(self) -> None:
        super().__init__(durable=True)
        self.errors: dict[str, type[BaseException]] = {}
        self.beats = 0

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        self._raise_once("apply")
        return await super().apply(changes)

    async def beat(self, instance: Instance) -> bool:
        self._raise_once("beat")
        self.beats += 1
        return await super().beat(instance)

    def _raise_once(self, operation: str) -> None:
        if (kind := self.errors.pop(operation, None)) is not None:
            raise kind


@pytest.mark.parametrize("kind", [asyncio.CancelledError, PanicError])
async def test_it_ends_neither_the_writer_of_the_ledger_nor_the_heartbeat(kind: type[BaseException]) -> None:
    backend = BrokenOnce()
    manager = TaskManager(snapshot_backend=backend, lease_seconds=60)

    @manager.task(persist=True)
    async def job() -> None: ...

    async with started(manager):
        backend.errors = {"apply": kind, "beat": kind}
        for _ in range(2):
            record = await finish(manager, await manager.enqueue(job))
            assert (record.status, record.persisted) == (TaskStatus.SUCCESS, True)
        await eventually(lambda: not backend.errors, "the heartbeat that fails")
        beats = backend.beats
        await eventually(lambda: backend.beats > beats, "the next heartbeat")
