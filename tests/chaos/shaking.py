"""What happens to the database of a storm: it ends, dies, freezes, or takes no writes for a while."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter

from tests.servers import PostgresServer, RedisServer, Server

KILLED, STOPPED, PAUSED, READ_ONLY = (
    "database killed",
    "database stopped",
    "database paused",
    "database read-only",
)


class Shaker:
    """Gives one server trouble now and then, drawn by `draw`."""

    def __init__(self, server: Server, draw: random.Random) -> None:
        self._server = server
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
            kind = self._draw.choice(self._kinds())
            self._shaking = True
            try:
                await self._shake(kind, self._draw.choice([0, 0, 0.5, 2.5]))
            finally:
                self._shaking, self._over_at = False, time.monotonic()
            self.tally[kind] += 1

    def _kinds(self) -> list[str]:
        kinds = [KILLED, STOPPED]
        if not isinstance(self._server, PostgresServer):
            # One process: of PostgreSQL a signal would reach the parent of those that serve the connections.
            kinds.append(PAUSED)
        if isinstance(self._server, (PostgresServer, RedisServer)):
            kinds.append(READ_ONLY)
        return kinds

    async def _shake(self, kind: str, seconds: float) -> None:
        begin, end = {
            KILLED: (self._server.kill, self._server.start),
            STOPPED: (self._server.stop, self._server.start),
            PAUSED: (self._server.pause, self._server.resume),
            READ_ONLY: (self._refuse_writes, self._accept_writes),
        }[kind]
        await asyncio.to_thread(begin)
        await asyncio.sleep(max(seconds, 2.5 if kind in {PAUSED, READ_ONLY} else 0.0))
        await asyncio.to_thread(end)

    def _refuse_writes(self) -> None:
        """Make it what a server is after a failover has made it a replica."""
        self._set_read_only(True)

    def _accept_writes(self) -> None:
        self._set_read_only(False)

    def _set_read_only(self, read_only: bool) -> None:
        if isinstance(self._server, PostgresServer):
            self._server.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if read_only else 'off'}")
            self._server.execute("SELECT pg_reload_conf()")
        elif isinstance(self._server, RedisServer):
            self._server.execute("REPLICAOF", *(("127.0.0.1", "1") if read_only else ("NO", "ONE")))
