"""Two worker processes with equal slots take equal shares of one queue, on each database."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tests.apps.fair_app import hold
from tests.e2e.fairness import enqueuing, two_workers
from tests.waiting import eventually

_SLOTS = 10
_LENGTH = 18
_NUMBER = 160
_GOLDEN = 0.618034


class _Held:
    """The running tasks of one ledger, as each says that it runs.

    The length of a task is counted in tasks and not in seconds: whenever one begins and `_LENGTH` others run, one of
    them ends, of any of both workers. That is long beside a claim, as where work waits for workers, and the time that a
    busy machine takes for a claim changes nothing.
    """

    def __init__(self) -> None:
        self.ran = Counter[int]()
        self.most = Counter[int]()
        """How many ran at once in each process, at most."""
        self._running: list[tuple[int, asyncio.StreamWriter]] = []

    async def begun(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pid = int(await reader.readline())
        self._running.append((pid, writer))
        self._running.sort(key=lambda one: one[0])
        self.ran[pid] += 1
        self.most[pid] = max(self.most[pid], sum(one == pid for one, _ in self._running))
        if (begun := self.ran.total()) == _NUMBER:
            while self._running:
                self._end(0)
        elif len(self._running) > _LENGTH:
            self._end(int(begun * _GOLDEN % 1 * len(self._running)))

    def _end(self, place: int) -> None:
        _, writer = self._running.pop(place)
        writer.write(b"end\n")
        writer.close()


async def _run(backend: str, url: str) -> _Held:
    held = _Held()
    server = await asyncio.start_server(held.begun, "127.0.0.1", 0)
    async with server, enqueuing(backend, url, _SLOTS) as manager:
        host, port = server.sockets[0].getsockname()
        ids = await asyncio.gather(*(manager.enqueue(hold, host, port) for _ in range(_NUMBER)))
        await eventually(lambda: held.ran.total() >= len(ids), f"all runs on {backend}", timeout=240)
    return held


async def _run_all(ledgers: Mapping[str, str]) -> list[_Held]:
    return await asyncio.gather(*(_run(backend, url) for backend, url in ledgers.items()))


def test_two_worker_processes_with_equal_slots_take_equal_shares(
    tmp_path: Path, postgres_url: str, redis_url: str, mariadb_url: str
) -> None:
    ledgers = {
        "sqlite": str(tmp_path / "tasks.db"),
        "postgres": postgres_url,
        "redis": redis_url,
        "mysql": mariadb_url,
    }
    with two_workers(ledgers, _SLOTS, tmp_path) as workers:
        results = asyncio.run(_run_all(ledgers))
        pids = {worker.pid for worker in workers}
    for backend, held in zip(ledgers, results, strict=True):
        assert held.ran.total() == _NUMBER, backend
        # Neither holds more than its slots, and the other one has the rest.
        assert held.ran.keys() == pids, backend
        assert max(held.most.values()) <= _SLOTS, backend
        assert max(held.ran.values()) <= 0.55 * _NUMBER, (backend, held.ran)
