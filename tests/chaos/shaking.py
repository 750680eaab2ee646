"""What happens to the servers of a storm, a database and its pooler, or a broker: they end, die, freeze, forget."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from tests.read_only import set_read_only
from tests.servers import PgBouncerServer, PostgresServer, RabbitServer, RedisServer, Server

_LASTING = 2.5


class Trouble(NamedTuple):
    """How one begins and ends. `lasting`: not everybody notices it at once, so it is never short."""

    begin: Callable[[], None]
    end: Callable[[], None]
    lasting: bool = False


def of_database(server: Server) -> dict[str, Trouble]:
    """What happens to a database, or to the pooler in front of it."""
    found = {
        "database killed": Trouble(server.kill, server.start),
        "database stopped": Trouble(server.stop, server.start),
    }
    if not isinstance(server, PostgresServer):
        # One process: of PostgreSQL a signal would reach the parent of those that serve the connections.
        found["database paused"] = Trouble(server.pause, server.resume, lasting=True)
    if not isinstance(server, PgBouncerServer):
        writable, read_only = (partial(set_read_only, server, one) for one in (False, True))
        found["database read-only"] = Trouble(read_only, writable, lasting=True)
    return found


def of_broker(server: Server) -> dict[str, Trouble]:
    """What happens to a broker."""
    return {
        "broker killed": Trouble(server.kill, server.start),
        "broker paused": Trouble(server.pause, server.resume, lasting=True),
        "broker wiped": Trouble(partial(_wipe, server), server.start),
    }


class Shaker:
    """Gives one of the servers trouble now and then, drawn by `draw`."""

    def __init__(
        self,
        servers: Sequence[Server],
        draw: random.Random,
        troubles: Callable[[Server], Mapping[str, Trouble]] = of_database,
    ) -> None:
        self._servers = servers
        self._draw = draw
        self._troubles = troubles
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
            troubles = self._troubles(self._draw.choice(self._servers))
            name = self._draw.choice(list(troubles))
            trouble = troubles[name]
            seconds = self._draw.choice([0, 0, 0.5, _LASTING])
            self._shaking = True
            try:
                await asyncio.to_thread(trouble.begin)
                await asyncio.sleep(_LASTING if trouble.lasting else seconds)
                await asyncio.to_thread(trouble.end)
            finally:
                self._shaking, self._over_at = False, time.monotonic()
            self.tally[name] += 1


def _wipe(broker: Server) -> None:
    match broker:
        case RabbitServer():
            broker.wipe()
        case RedisServer():
            broker.execute("FLUSHALL")
        case _:
            raise TypeError(broker)
