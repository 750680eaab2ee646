"""Several observers as one: each gets its events, whatever the others do."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from taskflow_otel.bus import Event, TaskObserver
from taskflow_otel.exporters.chain import LoggerChain
from taskflow_otel.exporters.memory import InMemoryLogger
from tests.exporters.lines.conftest import one_task, through


class Broken(TaskObserver):
    """Raises in each of its methods."""

    async def startup(self) -> None:
        raise OSError("startup")

    async def on_events(self, events: Sequence[Event]) -> None:
        raise OSError("events")

    async def close(self) -> None:
        raise OSError("close")


async def test_each_observer_gets_its_events_and_a_broken_one_disturbs_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    everything, quiet = InMemoryLogger(), InMemoryLogger("warning")
    quiet.wants_lifecycle = False
    await through(LoggerChain([Broken(), everything, quiet]), one_task("sent"))
    assert everything.messages == ["sent"]
    assert [event.status.value for event in everything.lifecycle_events] == ["pending", "running", "success"]
    assert quiet.events == []
    assert {record.getMessage() for record in caplog.records} == {"the observer Broken raised"}
    assert len(caplog.records) >= 3
