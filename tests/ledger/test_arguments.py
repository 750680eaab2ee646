"""Arguments come back as what they were, from every storage, after the process that took them has died."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.fernet import Fernet

from taskflow_otel import TaskStatus
from taskflow_otel.model.cipher import is_encrypted
from taskflow_otel.model.equality import equal
from taskflow_otel.testing.clock import FakeClock
from tests.ledger.fleet import LONG_AGO, Fleet
from tests.ledger.values import TYPED, UNTYPED, Receive, takes_typed, takes_untyped
from tests.managers import finish

OLD, NEW = Fernet.generate_key(), Fernet.generate_key()


@pytest.mark.parametrize(("make", "values"), [(takes_typed, TYPED), (takes_untyped, UNTYPED)])
@pytest.mark.parametrize(
    ("before", "after"),
    [(None, None), (OLD, OLD), (OLD, [NEW, OLD])],
    ids=["plain", "encrypted", "key rotated"],
)
async def test_arguments_are_identical_after_a_restart(
    fleet: Fleet, make: Callable[[Receive], Callable[..., Any]], values: dict[str, Any], before: Any, after: Any
) -> None:
    received: list[dict[str, Any]] = []
    function = make(lambda found: received.append({name: found[name] for name in values}))
    # In its own time the task is due in a minute, which never passes.
    first = fleet.manager(clock=FakeClock(LONG_AGO), encrypt_args_key=before)
    second = fleet.manager(encrypt_args_key=after)
    for manager in (first, second):
        manager.task(persist=True)(function)
    await fleet.start(first)
    task_id = await first.enqueue(function, **values, delay=60)
    stored = await fleet.storage.get(task_id)
    assert stored is not None
    assert stored.payload is not None
    assert is_encrypted(stored.payload) is (before is not None)
    await fleet.die(first)
    assert received == []

    await fleet.start(second)
    assert (await finish(second, task_id)).status is TaskStatus.SUCCESS
    again = await second.retry(task_id, rerun=True)
    assert (await finish(second, again.task_id)).status is TaskStatus.SUCCESS
    assert len(received) == 2
    for found in received:
        for name, value in values.items():
            assert equal(value, found[name], strict=True), (name, value, found[name])
