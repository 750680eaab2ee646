"""Old figures are deleted in parts that hold up no one for long, however many types ran in a minute."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from taskflow_otel.backends import Backend
from taskflow_otel.backends.admin import KeepsFigures
from taskflow_otel.backends.base import Insert
from taskflow_otel.model.figures import Span
from taskflow_otel.testing.backends.samples import BASE, finish, make_task
from tests.backends.conftest import BackendFactory

_LIMIT = 10
_OF_A_TYPE = 4
"""More rows than a type has here in one minute."""


@pytest.fixture
async def backend(backend_factory: BackendFactory) -> AsyncIterator[Backend]:
    backend = backend_factory()
    await backend.open()
    yield backend
    await backend.close()


@pytest.mark.parametrize("backend_factory", ["mysql", "postgres", "sqlite"], indirect=True)
async def test_a_minute_with_many_types_is_deleted_in_parts(backend: Backend) -> None:
    assert isinstance(backend, KeepsFigures)
    store = backend.figure_store
    for minute in range(4):
        tasks = [finish(make_task(func_name=f"type {kind}")) for kind in range(40)]
        for task in tasks:
            task.end_time = BASE.replace(second=30) + timedelta(minutes=minute)
        await backend.apply([Insert(task) for task in tasks])
    last = Span.MINUTE.slot(BASE + timedelta(minutes=3))
    deleted = []
    while count := await store.forget(Span.MINUTE, last, _LIMIT):
        deleted.append(count)
    assert max(deleted) <= _LIMIT + _OF_A_TYPE
    assert len(deleted) >= 3 * 40 // (_LIMIT + _OF_A_TYPE)
    left = await store.read(Span.MINUTE, 0, last, by_name=True)
    assert ({figure.slot for figure in left}, len({figure.func_name for figure in left})) == ({last}, 40)
    assert len({figure.func_name for figure in await store.read(Span.HOUR, 0, last, by_name=True)}) == 40
