"""The walk of one persisted task through the library, as the calls from module to module that a request causes.

    python -m tests.e2e.walk        # write the list in docs/architecture.md anew

Only calls that are made for the task are listed. A call counts where it leaves a module of `request/` or `engine/`, or
a whole room below them. Leaf modules, which know nothing of where a task stands on its way, are not listed.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import httpx
from fastapi import BackgroundTasks, FastAPI
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

import taskflow_otel
from taskflow_otel import TaskManager, Telemetry
from tests.waiting import eventually

PACKAGE = Path(taskflow_otel.__file__).parent
PAGE = PACKAGE.parent / "docs" / "architecture.md"
MARK = "<!-- walk -->"

STEPS = {
    "ManagedBackgroundTasks.add_task": "The route adds the task",
    "Outbox.deliver": "Before the response's first byte",
    "Outbox.close": "After the response's last byte",
    "AttemptRunner.run": "The attempt starts",
    "AttemptRunner._enter": "The function runs",
}
"""The calls with which a step begins. What an attempt does after its function has returned is a step too."""
LAST, _LAST_BEGINS = "The task ends", "Lifecycle.move"

ROOMS = ("request", "engine", "engine/ledger", "engine/fleet", "engine/executors", "backends", "bus", "exporters")
"""The rooms of the walk, in the order in which a step may enter them."""
LEAVES = {
    "compat", "errors", "model", "runtime", "testing",
    *(f"engine/{name}" for name in ("context", "life", "live", "membership", "phase", "queues", "registry")),
}  # fmt: skip
"""Values and books: they are read and written on the way, and call nobody."""
BESIDE = {
    # The rest of `AsyncExecutor.run`, which the attempt awaits.
    "awaited",
    # Of a transaction, which belongs to all tasks in it.
    "PrometheusExporter.observe_backend",
    # Now and then, whatever tasks do.
    "TracingExporter.idle_until",
    "SpanKeeper.idle_until",
    "LogsExporter.idle_until",
    "OtelMetricsExporter.idle_until",
    "LiveStream.idle_until",
}


class Call(NamedTuple):
    """A call that enters a module, or a room below the engine."""

    step: str
    depth: int
    caller: str
    unit: str
    function: str

    @property
    def enters(self) -> str | None:
        """The room that is entered; `None` for a call within a room."""
        return None if _room(self.caller) == _room(self.unit) else _room(self.unit)


def _room(unit: str) -> str:
    return max((room for room in ROOMS if f"{unit}/".startswith(f"{room}/")), key=len, default="")


class Tracer:
    """Notes each call once, with the step that it belongs to."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._seen: dict[FrameType, tuple[str, int]] = {}
        """The unit and the depth of each frame on the way, kept alive so that no other frame takes its identity."""
        self._step = ""
        self._ledger = ("engine/ledger", 0)

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """As `sys.setprofile` wants it."""
        if event != "call" or frame in self._seen or not _is_ours(frame):
            return
        name, unit = frame.f_code.co_qualname, _unit(frame)
        callers = list(_callers(frame))
        around = [caller.f_code.co_qualname for caller in callers]
        for_a_commit = "Writer.run" in around
        if unit in LEAVES or not BESIDE.isdisjoint([name, *around]):
            return
        if not (for_a_commit or name in STEPS or not STEPS.keys().isdisjoint(around)):
            return
        self._find_step(name, around)
        caller = next((self._seen[one] for one in callers if one in self._seen), None)
        if caller is None:
            # The writer is an asyncio task of its own; it works for the commit that the task awaits.
            caller = self._ledger if for_a_commit else ("", 0)
        depth = caller[1] + (caller[0] not in {"", unit})
        self._seen[frame] = (unit, depth)
        if caller[0] == unit or _room(caller[0]) == "exporters":
            return
        if unit == "engine/ledger":
            self._ledger = (unit, depth)
        self.calls.append(Call(self._step, depth, caller[0], unit, f"{_module(frame)}.{name}"))

    def _find_step(self, name: str, around: list[str]) -> None:
        if name in STEPS:
            self._step = STEPS[name]
        elif self._step == STEPS["AttemptRunner._enter"] and name == _LAST_BEGINS:
            self._step = LAST


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(f"{PACKAGE}/") and not frame.f_code.co_name.startswith("<")


def _callers(frame: FrameType) -> Iterator[FrameType]:
    caller = frame.f_back
    while caller is not None:
        if _is_ours(caller):
            yield caller
        caller = caller.f_back


def _module(frame: FrameType) -> str:
    return str(Path(frame.f_code.co_filename).relative_to(PACKAGE).with_suffix(""))


def _unit(frame: FrameType) -> str:
    module = _module(frame)
    room = module.split("/")[0]
    if room in LEAVES | {"backends", "bus"}:
        return room
    deeper = "/".join(module.split("/")[:2])
    return deeper if deeper in ROOMS else module


async def walk() -> list[Call]:
    """Serve one request that adds one persisted task on SQLite, and return the calls of the task's way to its end."""
    with tempfile.TemporaryDirectory() as folder:
        telemetry = Telemetry(
            tracer_provider=TracerProvider(), logger_provider=LoggerProvider(), meter_provider=MeterProvider()
        )
        # History is written when the manager stops, since a transaction for it alone does not belong to the walk.
        manager = TaskManager(snapshot_db=Path(folder) / "tasks.db", snapshot_interval=600, telemetry=telemetry)
        app = FastAPI()
        manager.install(app)

        @manager.task(persist=True)
        async def greet(name: str) -> None:
            assert name

        @app.post("/greet")
        async def post(tasks: BackgroundTasks) -> None:
            tasks.add_task(greet, "you")

        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                tracer = Tracer()
                with _profiled(tracer):
                    (await client.post("/greet")).raise_for_status()
                    await eventually(lambda: any("Attempts.ended" in call.function for call in tracer.calls), "the end")
    return tracer.calls


@contextmanager
def _profiled(tracer: Tracer) -> Iterator[None]:
    before = sys.getprofile()
    sys.setprofile(tracer)
    try:
        yield
    finally:
        sys.setprofile(before)


def as_text(calls: list[Call]) -> str:
    """The list for the page: each step with its calls, indented below their callers."""
    lines: list[str] = []
    for number, step in enumerate(dict.fromkeys(call.step for call in calls), 1):
        made = [call for call in calls if call.step == step]
        top = min(call.depth for call in made)
        lines += [f"{number}. {step}", *(f"   {'  ' * (call.depth - top)}{call.function}" for call in made)]
    return "\n".join(lines)


def on_page() -> str:
    """The list as the page shows it."""
    return PAGE.read_text().split(MARK)[1].strip().removeprefix("```text\n").removesuffix("\n```")


def main() -> None:
    """Write the list on the page anew."""
    before, _, after = PAGE.read_text().split(MARK)
    PAGE.write_text(f"{before}{MARK}\n\n```text\n{as_text(asyncio.run(walk()))}\n```\n\n{MARK}{after}")


if __name__ == "__main__":
    main()
