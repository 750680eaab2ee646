"""Watches and breaks the connections of psycopg."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import psycopg
import pytest


async def _end_session(driver: Any) -> None:
    async with await psycopg.AsyncConnection.connect(
        driver.info.dsn, password=driver.info.password, autocommit=True
    ) as killer:
        await killer.execute("SELECT pg_terminate_backend(%s, 5000)", (driver.info.backend_pid,))


class Broken:
    """Ends the session of each connection just before it executes its first statement with this text."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        self.ended: list[Any] = []
        execute = psycopg.AsyncCursor.execute

        async def end_first(cursor: Any, query: Any, *args: Any, **options: Any) -> Any:
            if text in str(query) and not self.ended:
                self.ended.append(cursor.connection)
                await _end_session(cursor.connection)
            return await execute(cursor, query, *args, **options)

        monkeypatch.setattr(psycopg.AsyncCursor, "execute", end_first)


class Waits:
    """Counts from now on how often a connection asks its server, and how often it waits for the answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asks = self.answers = 0
        wait = psycopg.AsyncConnection.wait

        async def counted(connection: Any, generator: Any, *args: Any, **options: Any) -> Any:
            self.asks += 1
            return await wait(connection, self._watched(generator), *args, **options)

        monkeypatch.setattr(psycopg.AsyncConnection, "wait", counted)

    def _watched(self, generator: Any) -> Generator[Any, Any, Any]:
        ready, answer = None, False
        try:
            while True:
                asked = generator.send(ready)
                answer = answer or asked == psycopg.waiting.Wait.R
                ready = yield asked
        except StopIteration as end:
            return end.value
        finally:
            self.answers += answer
