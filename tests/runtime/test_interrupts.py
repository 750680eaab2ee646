"""A further Ctrl-C while something is being ended in order."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from taskflow_otel.runtime.interrupts import on_interrupt


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """The signals that the handler of the application gets."""
    numbers: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        numbers.append(number)

    previous = signal.signal(signal.SIGINT, handle)
    yield numbers
    signal.signal(signal.SIGINT, previous)


async def test_each_interrupt_calls_back_and_reaches_whoever_handled_it_before(handled: list[int]) -> None:
    called = asyncio.Event()
    before = signal.getsignal(signal.SIGINT)
    with on_interrupt(called.set):
        for number in (1, 2):
            called.clear()
            os.kill(os.getpid(), signal.SIGINT)
            async with asyncio.timeout(20):
                await called.wait()
            assert len(handled) == number
    assert signal.getsignal(signal.SIGINT) is before


async def test_a_handler_that_was_set_inside_stays(handled: list[int]) -> None:
    with on_interrupt(lambda: None):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


async def test_where_python_does_not_handle_the_signal_nothing_changes(handled: list[int]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with on_interrupt(lambda: None):
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_in_another_thread_nothing_changes(handled: list[int]) -> None:
    inside: list[object] = []

    def elsewhere() -> None:
        with on_interrupt(lambda: None):
            inside.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(20)
    assert inside == [before]
