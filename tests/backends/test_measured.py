"""Every operation of the backend is timed, and shows whether the backend answers."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable

import pytest

from taskflow_otel.backends import MemoryBackend
from taskflow_otel.backends.base import Backend
from taskflow_otel.backends.measured import MeasuredBackend
from taskflow_otel.errors import BackendError, BackendUnavailableError
from taskflow_otel.model.query import Instance
from taskflow_otel.testing.clock import FakeClock

OPERATIONS = sorted(
    name
    for name, member in inspect.getmembers(Backend, inspect.iscoroutinefunction)
    if name not in {"open", "close", "apply"}
)


class Doubtful(MemoryBackend):
    """A backend whose list of instances is what the test says."""

    def __init__(self, answer: Callable[[], BaseException | None]) -> None:
        super().__init__()
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


def test_it_is_a_backend_and_passes_every_operation_on() -> None:
    scene = Scene()
    assert isinstance(scene.backend, Backend)
    assert (scene.backend.name, scene.backend.durable) == ("memory", False)
    assert scene.backend.audit_store is scene.inner.audit_store
    for name in OPERATIONS:
        assert inspect.signature(getattr(MeasuredBackend, name)) == inspect.signature(getattr(Backend, name))
        assert f'"{name}"' in inspect.getsource(getattr(MeasuredBackend, name))


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
