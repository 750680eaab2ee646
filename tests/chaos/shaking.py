"""What happens to the servers of a storm, a database and its pooler: they end, die, freeze, or take no writes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from tests.read_only import set_read_only
from tests.servers import PgBouncerServer, PostgresServer, Server

KILLED, STOPPED, PAUSED, READ_ONLY = (
    "database killed",
    "database stopped",
    "database paused",
    "database read-only",
)


class Shaker:
    """Gives one of the servers trouble now and then, drawn by `draw`."""

    def __init__(self, servers: Sequence[Server], draw: random.Random) -> None:
        self._servers = servers
        self._draw = draw
        self._shaking = False
        self._over_at = 0.0
        self.tally: Counter[str] = Counter()

    @property
    def shaken_at(self) -> float:
        """When it last had trouble, on the monotonic clock."""
        return time.monotonic() if self._shaking else self._over_at

    async def run(self, over: asyncio.Event) -> None:
        """Give it trouble until `over`; it is well at the end."""
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), self._draw.uniform(4, 12))
                return
            server = self._draw.choice(self._servers)
            kind = self._draw.choice(_kinds(server))
            self._shaking = True
            try:
                await _shake(server, kind, self._draw.choice([0, 0, 0.5, 2.5]))
            finally:
                self._shaking, self._over_at = False, time.monotonic()
            self.tally[kind] += 1


def _kinds(server: Server) -> list[str]:
    kinds = [KILLED, STOPPED]
    if not isinstance(server, PostgresServer):
        # One process: of PostgreSQL a signal would reach the parent of those that serve the connections.
        kinds.append(PAUSED)
    if not isinstance(server, PgBouncerServer):
        kinds.append(READ_ONLY)
    return kinds


async def _shake(server: Server, kind: str, seconds: float) -> None:
    ways: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        KILLED: (server.kill, server.start),
        STOPPED: (server.stop, server.start),
        PAUSED: (server.pause, server.resume),
        READ_ONLY: (partial(set_read_only, server, True), partial(set_read_only, server, False)),
    }
    begin, end = ways[kind]
    await asyncio.to_thread(begin)
    await asyncio.sleep(max(seconds, 2.5 if kind in {PAUSED, READ_ONLY} else 0.0))
    await asyncio.to_thread(end)
