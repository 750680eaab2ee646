"""One task told to an observer that writes lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskflow_otel.bus import ObserverBus, TaskObserver
from tests.exporters.story import Story


async def through(observer: TaskObserver, tell: Callable[[ObserverBus], object]) -> ObserverBus:
    """Let `tell` publish, and return the bus once everything has been written."""
    bus = ObserverBus(observers=[observer])
    await bus.start()
    tell(bus)
    await bus.close(10)
    return bus


def one_task(*messages: str, **extra: Any) -> Callable[[ObserverBus], Story]:
    def tell(bus: ObserverBus) -> Story:
        story = Story(bus).created().enqueued().started()
        for message in messages:
            story.log(message, **extra)
        return story.succeeded()

    return tell


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.log"
