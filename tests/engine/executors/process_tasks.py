"""Task functions for the tests of the process executor: importable, since the child finds them by their name."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

from opentelemetry import baggage, trace

from taskflow_otel import task_log
from tests.inside import own_context
from tests.waiting import wait_until


@dataclass
class Order:
    id: UUID
    items: set[str]


class PlainError(Exception):
    """Travels as it is."""


class TwoArgumentsError(Exception):
    """Its pickle cannot be read back: the constructor wants more than the message."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


class LockedError(Exception):
    """Cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class UnspeakableError(Exception):
    """Its text cannot be read."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def write_pid(path: Path) -> None:
    path.write_text(str(os.getpid()))


def write(path: Path, text: str) -> None:
    path.write_text(text)


def write_order(path: Path, order: Order) -> None:
    path.write_text(f"{type(order).__name__} {order.id!r} {sorted(order.items)}")


def wait_for(path: Path, started: Path) -> None:
    started.write_text(str(os.getpid()))
    wait_until(path.exists, str(path))


def speak(proceed: Path) -> None:
    context = own_context()
    task_log("half way", level="warning", path=proceed, attempt=context.attempt, tag=context.tags["colour"])
    context.progress(1, 2, "half")
    wait_until(proceed.exists, str(proceed))
    task_log("done")


def log_by_stdlib() -> None:
    logging.getLogger("shop").info("packed %d", 3)


def trace_it() -> None:
    span = trace.get_current_span().get_span_context()
    task_log(
        "outer", trace_id=f"{span.trace_id:032x}", span_id=f"{span.span_id:016x}", user=str(baggage.get_baggage("user"))
    )
    with (
        contextlib.suppress(PlainError),
        trace.get_tracer("shop", "1.2").start_as_current_span("inner", attributes={"n": 3}) as inner,
    ):
        inner.add_event("looked", {"where": "there"})
        with trace.get_tracer("shop").start_as_current_span("innermost"):
            task_log("within", span_id=f"{trace.get_current_span().get_span_context().span_id:016x}")
        raise PlainError("handled")


def die(how: str) -> None:
    match how:
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "leave a fork behind":
            if os.fork() == 0:
                time.sleep(20)
            os._exit(4)


def die_once(marker: Path) -> None:
    if not marker.exists():
        marker.touch()
        os._exit(1)


def fail(kind: str) -> None:
    class LocalError(Exception):
        pass

    match kind:
        case "plain":
            raise PlainError("plain words")
        case "two":
            raise TwoArgumentsError(7, "words")
        case "locked":
            raise LockedError("locked words")
        case "local":
            raise LocalError("local words")
        case "unspeakable":
            raise UnspeakableError
        case "group":
            raise ExceptionGroup("several", [PlainError("one"), LockedError("two")])
        case "exit":
            sys.exit("leaving")
        case "stop":
            raise StopIteration
        case "memory":
            raise MemoryError("no room")
        case "large":
            raise PlainError("x" * 1_000_000)


def fail_once(kind: str, marker: Path) -> None:
    if not marker.exists():
        marker.touch()
        fail(kind)


def give_back_a_lock() -> Any:
    return threading.Lock()


def hold_on(started: Path, cleaned: Path) -> None:
    try:
        started.write_text(str(os.getpid()))
        time.sleep(600)
    finally:
        cleaned.write_text("clean")


def hold_on_regardless(started: Path, cleaned: Path) -> NoReturn:
    while True:
        with contextlib.suppress(BaseException):
            hold_on(started, cleaned)


def hold_the_interpreter(started: Path, cleaned: Path) -> None:
    started.write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(600)


def stop_when_asked(started: Path, cleaned: Path) -> None:
    started.write_text(str(os.getpid()))
    wait_until(lambda: own_context().cancelled, "the request")
    cleaned.write_text("asked")


def ignore_strangers(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    path.write_text("still here")
