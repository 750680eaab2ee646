"""A TCP relay on the loopback, between a client and a server, that can fall silent as a network does."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self


class _Line:
    """One connection of a client, and its counterpart to the server."""

    def __init__(self, speaking: asyncio.Event) -> None:
        self.speaking = speaking
        self.writers: list[asyncio.StreamWriter] = []

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        self.writers.append(writer)
        await self.speaking.wait()
        answers, questions = await asyncio.open_connection("127.0.0.1", port)
        self.writers.append(questions)
        await asyncio.gather(self._pass(reader, questions), self._pass(answers, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65_536):
            await self.speaking.wait()
            writer.write(piece)
            await writer.drain()
        await self.speaking.wait()
        writer.close()

    def drop(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Relay:
    """Forwards a port of its own to `target`, another port of 127.0.0.1. Use as an async context manager."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._speaking = asyncio.Event()
        self._speaking.set()
        self._lines: dict[asyncio.Task[None], _Line] = {}
        self._server: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        lines = list(self._lines)
        self.drop()
        if lines:
            await asyncio.wait(lines)
        await self._server.wait_closed()

    @property
    def connections(self) -> int:
        """How many connections there are now."""
        return len(self._lines)

    def silence(self) -> None:
        """From now on, pass nothing on and close nothing; connections are accepted and hear nothing."""
        self._speaking.clear()

    def resume(self) -> None:
        """Pass everything on again, including what was sent in the silence."""
        self._speaking.set()

    def lose(self) -> None:
        """Let the present connections be silent for ever, as after a failover of the network; new ones work."""
        for line in self._lines.values():
            line.speaking = asyncio.Event()

    def drop(self) -> None:
        """Close all present connections."""
        for task, line in self._lines.items():
            line.drop()
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task, line = asyncio.current_task(), _Line(self._speaking)
        assert task is not None
        self._lines[task] = line
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await line.run(reader, writer, self._target)
        finally:
            line.drop()
            del self._lines[task]
