"""Calls that may block are made in order, in a thread of their own, up to a number."""

from __future__ import annotations

import asyncio
import threading

import pytest

from taskflow_otel.runtime.side_thread import SideThread
from tests.managers import WAIT


async def test_calls_are_made_in_order_and_the_stop_waits_for_them() -> None:
    thread, made, here = SideThread("side", 10), list[object](), threading.get_ident()
    assert not thread.submit(lambda: made.append("before the start"))
    await thread.stop(lambda: made.append("never started"))
    thread.start()
    assert thread.submit(lambda: made.append(1))
    assert await thread.ask(lambda: [*made, 2]) == [1, 2]
    assert await thread.ask(threading.get_ident) != here
    assert thread.submit(lambda: made.append(3))
    await thread.stop(lambda: made.append("closed"))
    assert made == [1, 3, "closed"]
    assert not thread.submit(lambda: made.append("after the stop"))
    thread.start()
    assert await thread.ask(lambda: "again") == "again"
    await thread.stop(lambda: None)


async def test_an_error_reaches_who_asked_and_a_last_call_that_fails_ends_the_thread_too() -> None:
    thread = SideThread("side", 10)
    thread.start()

    def fail() -> None:
        raise LookupError("no answer")

    with pytest.raises(LookupError, match="no answer"):
        await thread.ask(fail)
    await asyncio.wait_for(thread.stop(fail), WAIT)


async def test_more_calls_than_the_capacity_are_refused_while_one_blocks() -> None:
    thread, blocked, go = SideThread("side", 2), threading.Event(), threading.Event()
    thread.start()

    def block() -> None:
        blocked.set()
        go.wait(WAIT)

    assert thread.submit(block)
    await asyncio.to_thread(blocked.wait, WAIT)
    assert [thread.submit(lambda: None) for _ in range(3)] == [True, True, False]
    with pytest.raises(TimeoutError, match="too many calls"):
        await thread.ask(lambda: None)
    go.set()
    await thread.stop(lambda: None)


async def test_an_answer_that_nobody_awaits_any_more_is_not_computed() -> None:
    thread, go, made = SideThread("side", 5), threading.Event(), list[str]()
    thread.start()
    thread.submit(lambda: go.wait(WAIT))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(thread.ask(lambda: made.append("computed")), 0.01)
    go.set()
    await thread.stop(lambda: made.append("closed"))
    assert made == ["closed"]
