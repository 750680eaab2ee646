"""A signal is heard in addition to its handler."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from taskflow_otel.runtime.interrupts import on_signals
from tests.waiting import eventually

NUMBER = signal.SIGUSR1


@pytest.fixture(autouse=True)
def before() -> Iterator[None]:
    previous = signal.getsignal(NUMBER)
    yield
    signal.signal(NUMBER, previous)


def raise_it() -> None:
    os.kill(os.getpid(), NUMBER)


@pytest.mark.parametrize("handled", ["by a function", "by the loop"])
async def test_a_signal_is_heard_and_still_handled(handled: str) -> None:
    handlings: list[int] = []
    heard: list[int] = []
    if handled == "by the loop":
        asyncio.get_running_loop().add_signal_handler(NUMBER, handlings.append, 1)
    else:
        signal.signal(NUMBER, lambda number, frame: handlings.append(1))
    handler = signal.getsignal(NUMBER)
    with on_signals((NUMBER,), lambda: heard.append(1)):
        raise_it()
        await eventually(lambda: (handlings, heard) == ([1], [1]), "the signal")
    assert signal.getsignal(NUMBER) is handler
    raise_it()
    await eventually(lambda: handlings == [1, 1], "the second signal")
    assert heard == [1]
    asyncio.get_running_loop().remove_signal_handler(NUMBER)


async def test_what_has_wrapped_the_handler_since_stays_and_the_signal_is_no_longer_heard() -> None:
    handlings: list[str] = []
    heard: list[int] = []
    signal.signal(NUMBER, lambda number, frame: handlings.append("before"))
    with on_signals((NUMBER,), lambda: heard.append(1)):
        inner = signal.getsignal(NUMBER)
        assert callable(inner)

        def wrapping(number: int, frame: object) -> None:
            handlings.append("since")
            inner(number, None)

        signal.signal(NUMBER, wrapping)
    assert signal.getsignal(NUMBER) is wrapping
    raise_it()
    await eventually(lambda: handlings == ["since", "before"], "the signal")
    assert heard == []


async def test_a_handler_that_was_set_inside_stays() -> None:
    signal.signal(NUMBER, lambda number, frame: None)
    with on_signals((NUMBER,), lambda: None):
        signal.signal(NUMBER, signal.SIG_IGN)
    assert signal.getsignal(NUMBER) is signal.SIG_IGN


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
async def test_what_python_does_not_handle_is_left_as_it_is(handler: signal.Handlers) -> None:
    signal.signal(NUMBER, handler)
    with on_signals((NUMBER,), lambda: None):
        assert signal.getsignal(NUMBER) is handler


def test_in_another_thread_nothing_is_changed() -> None:
    signal.signal(NUMBER, lambda number, frame: None)
    seen = []

    async def look() -> None:
        before = signal.getsignal(NUMBER)
        with on_signals((NUMBER,), lambda: None), contextlib.suppress(RuntimeError):
            seen.append(signal.getsignal(NUMBER) is before)

    thread = threading.Thread(target=lambda: asyncio.run(look()))
    thread.start()
    thread.join()
    assert seen == [True]
