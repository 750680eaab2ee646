"""Work beside its caller: nothing is lost, nothing is left half done, and each failure is heard."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from taskflow_otel.runtime.owned_tasks import OwnedTasks, bounded, gather_all, in_slices
from taskflow_otel.testing.clock import settle
from tests.waiting import stubbornly

who: ContextVar[str] = ContextVar("who", default="nobody")


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def test_the_owner_hears_of_a_failure_and_not_of_a_cancellation() -> None:
    heard: list[BaseException] = []
    owned = OwnedTasks(heard.append)

    async def fails() -> None:
        raise KeyError("work")

    failing, endless = owned.own(fails()), owned.own(forever())
    assert (len(owned), failing in owned) == (2, True)
    await asyncio.wait({failing})
    await settle()
    assert [type(exc) for exc in heard] == [KeyError]
    await owned.stop()
    assert (endless.cancelled(), len(owned), len(heard)) == (True, 0, 1)


async def test_a_stop_waits_for_the_end_of_what_it_cancels() -> None:
    ended: list[str] = []

    async def slow_to_stop() -> None:
        try:
            await forever()
        finally:
            await settle()
            ended.append("cleaned up")

    owned = OwnedTasks(lambda exc: None)
    owned.own(slow_to_stop())
    await settle()
    await owned.stop()
    assert ended == ["cleaned up"]


async def test_the_owner_is_called_outside_the_context_of_the_work() -> None:
    heard: list[str] = []
    owned = OwnedTasks(lambda exc: heard.append(who.get()))

    async def fails() -> None:
        who.set("the work")
        raise KeyError

    who.set("the caller")
    await asyncio.wait({owned.own(fails())})
    await settle()
    assert heard == ["nobody"]


async def test_slices_let_the_loop_run_in_between() -> None:
    turns: list[str] = []
    asyncio.get_running_loop().call_soon(turns.append, "another")
    note = turns.append
    async for item in in_slices("abcd", 2):
        note(item)
    assert turns == ["a", "b", "another", "c", "d"]


async def test_a_cancellation_between_slices_is_raised_after_the_last_item() -> None:
    done: list[int] = []
    note = done.append

    async def work() -> None:
        async for item in in_slices(range(6), 2):
            note(item)

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert done == list(range(6))


async def test_one_step_that_fails_does_not_keep_the_others_from_theirs(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    async def fails() -> None:
        raise RuntimeError("stuck valve")

    async def works() -> None:
        await settle()
        done.append("closed")

    await gather_all([fails(), works()])
    assert done == ["closed"]
    assert "a part could not be stopped cleanly: stuck valve" in caplog.text


async def test_a_step_that_ignores_its_cancellation_is_left_behind_and_named(caplog: pytest.LogCaptureFixture) -> None:
    release = asyncio.Event()

    async def deaf() -> None:
        await stubbornly(release)

    step = asyncio.ensure_future(deaf())
    await bounded(step, 0, "the valve")
    assert not step.done()
    assert caplog.messages == ["the valve did not stop within 0.0 s"]
    release.set()
    await step


async def test_a_step_that_fails_in_time_raises() -> None:
    async def fails() -> None:
        raise KeyError("its own")

    with pytest.raises(KeyError):
        await bounded(fails(), 20, "the valve")
