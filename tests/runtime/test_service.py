"""The engine's maintenance services: one failure does not end them, and a stop always does."""

from __future__ import annotations

import asyncio

from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.runtime.service import Service
from taskflow_otel.testing.clock import FakeClock


class Probe(Service):
    """Counts its rounds; each fails, or hangs and turns its cancellation into an error, as a driver may."""

    def __init__(self, clock: FakeClock, *, hangs: bool = False, longest_backoff: float = 8.0) -> None:
        super().__init__("probe", 1.0, clock, longest_backoff=longest_backoff)
        self.rounds = 0
        self._hangs = hangs

    async def tick(self) -> None:
        self.rounds += 1
        try:
            if self._hangs:
                await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            pass
        raise BackendUnavailableError("away")


async def test_a_failing_service_is_repeated_less_and_less_often() -> None:
    clock = FakeClock()
    probe = Probe(clock)
    await probe.start()
    await clock.advance(1 + 2 + 4 + 8 + 8)
    await probe.stop()
    assert (probe.rounds, probe.failures) == (5, 5)


async def test_a_stop_ends_a_round_that_swallows_its_cancellation() -> None:
    clock = FakeClock()
    probe = Probe(clock, hangs=True)
    await probe.start()
    await clock.advance(1)
    async with asyncio.timeout(10):
        await probe.stop()
    assert probe.rounds == 1
