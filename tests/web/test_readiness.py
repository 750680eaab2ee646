"""What anyone may ask reaches the backend once a second at most."""

from __future__ import annotations

from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.web.readiness import Readiness
from tests.clocks import HandClock
from tests.web.house import House


async def test_readiness_is_asked_of_the_backend_once_a_second_at_most(engine: House) -> None:
    clock = HandClock()
    readiness = Readiness(engine.manager.engine, clock=clock)
    assert await readiness.is_ready()
    engine.backend.unreadable = BackendUnavailableError("down")
    assert await readiness.is_ready()
    clock.seconds += 1.5
    assert not await readiness.is_ready()
