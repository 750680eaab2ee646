"""No `repr` of data that holds a task's arguments shows them."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from msgspec import Struct

import taskflow_otel
from taskflow_otel.backends.base import Insert, Update
from taskflow_otel.engine.context import TaskContext
from taskflow_otel.engine.executors.base import Call
from taskflow_otel.engine.executors.process_protocol import FunctionReference, PackedCall
from taskflow_otel.engine.live import LiveTask, Sealed
from taskflow_otel.engine.registry import Resolved, TaskDefinition
from taskflow_otel.model.hiding import HIDDEN
from taskflow_otel.model.payload import Codec
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.schedule import ScheduledRun
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.task_options import TaskConfig

SECRET = "s3cret"
ARGS, KWARGS = (SECRET,), {"password": SECRET}
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
RECORD = TaskRecord("the-id", "send", TaskStatus.PENDING, MOMENT, payload=SECRET, tags={"customer": "7"})
DEFINITION = TaskDefinition(TaskConfig(name="send"), print, None)

HOLDERS = [
    RECORD,
    Call(DEFINITION, ARGS, cast("dict[str, Any]", KWARGS), cast(TaskContext, None), SECRET),
    LiveTask(RECORD, DEFINITION, ARGS, cast("dict[str, Any]", KWARGS), None, durable=True),
    Sealed(cast(Codec, None), SECRET),
    Resolved(DEFINITION, ARGS, cast("dict[str, Any]", KWARGS)),
    PackedCall(FunctionReference(value=SECRET.encode()), SECRET),
    ScheduledRun(run_key="key", func_name="send", run_at=MOMENT, task_id="the-id", payload=SECRET),
]
AROUND = [Insert(RECORD), Update(RECORD)]


@pytest.mark.parametrize("value", [*HOLDERS, *AROUND], ids=lambda value: type(value).__name__)
def test_a_repr_hides_the_arguments(value: object) -> None:
    for shown in (repr(value), str(value), f"{[value]}"):
        assert SECRET not in shown
        assert type(value).__name__ in shown


def test_a_record_shows_everything_else() -> None:
    assert f"payload={HIDDEN}" in repr(RECORD)
    assert "task_id='the-id'" in repr(RECORD)
    assert "tags={'customer': '7'}" in repr(RECORD)
    assert "payload=None" in repr(TaskRecord("id", "send", TaskStatus.PENDING, MOMENT))


def test_every_class_that_holds_arguments_is_among_those() -> None:
    found = set()
    for module in pkgutil.walk_packages(taskflow_otel.__path__, "taskflow_otel."):
        if module.name.endswith("__main__"):
            continue
        for kind in vars(importlib.import_module(module.name)).values():
            if (
                isinstance(kind, type)
                and kind.__module__ == module.name
                and names(kind) & {"args", "kwargs", "payload"}
            ):
                found.add(kind)
    # What the API shows only where `display_func_args` allows it.
    shown = {kind for kind in found if kind.__module__ == "taskflow_otel.wire.tasks"}
    assert found - shown == {type(holder) for holder in HOLDERS} - {PackedCall}


def names(kind: type) -> set[str]:
    """The fields of a class that holds plain data."""
    if issubclass(kind, Struct):
        return set(kind.__struct_fields__)
    if is_dataclass(kind):
        return {field.name for field in fields(kind)}
    return set(getattr(kind, "_fields", ()))
