"""The groups of failures that a user ignores until a moment, for all instances."""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec import Struct

from taskflow_otel.web.ports import SharedSettings
from taskflow_otel.wire.failures import IgnoredOut

PREFIX = "failures.ignored."


class Ignored(Struct, frozen=True, kw_only=True):
    """Who ignores a group."""

    by: str | None
    at: datetime
    until: datetime
    recent: int
    """How many of its tasks failed in the hour before: with more than twice as many, it is shown again."""
    reason: str | None = None

    def out(self) -> IgnoredOut:
        """The answer of the API."""
        return IgnoredOut(by=self.by, at=self.at, until=self.until, reason=self.reason)


_encode, _decode = msgspec.json.encode, msgspec.json.Decoder(Ignored).decode


class IgnoredGroups:
    """Reads and writes them. Each is one shared setting."""

    def __init__(self, shared: SharedSettings) -> None:
        self._shared = shared

    async def read(self, now: datetime) -> dict[str, Ignored]:
        """Those whose time is not over, by fingerprint."""
        return {name: one for name, one in (await self._stored()).items() if one is not None and one.until > now}

    async def ignore(self, fingerprint: str, ignored: Ignored) -> None:
        """Ignore a group; delete what is over, so that nothing piles up."""
        for name, one in (await self._stored()).items():
            if one is None or one.until <= ignored.at:
                await self._shared.write(PREFIX + name, None)
        await self._shared.write(PREFIX + fingerprint, _encode(ignored).decode())

    async def show(self, fingerprint: str) -> None:
        """Ignore a group no more."""
        await self._shared.write(PREFIX + fingerprint, None)

    async def _stored(self) -> dict[str, Ignored | None]:
        stored = await self._shared.read(PREFIX)
        return {key.removeprefix(PREFIX): _read(text) for key, text in stored.items()}


def _read(text: str) -> Ignored | None:
    try:
        return _decode(text)
    except msgspec.DecodeError:
        # Of a later version, or damaged: then the group is shown.
        return None
