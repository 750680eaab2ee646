"""Sessions that were ended before their time, for all instances that share the backend."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets

from taskflow_otel.errors import BackendError, BackendUnavailableError, NotStartedError
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.web.ports import SharedSettings
from taskflow_otel.web.sessions import Session

_log = logging.getLogger("taskflow_otel")

_PREFIX = "session:"
_ENDED = f"{_PREFIX}ended:"
_GENERATION = f"{_PREFIX}generation:"
_FRESH = 1.0
_PATIENCE = 2.0
_FORGOTTEN_AT_ONCE = 100


class EndedSessions:
    """Knows which sessions have been ended: at once in the process that ended them, within a second in the others.

    While the backend cannot be read, what was known last counts. Before the first reading, the errors of the backend
    are raised. A backend that is not durable forgets with its process.
    """

    def __init__(self, shared: SharedSettings, audience: str, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._shared = shared
        self._audience = audience
        self._clock = clock
        self._lock = asyncio.Lock()
        self._stored: dict[str, str] | None = None
        self._read_at = 0.0
        self._changes = 0
        self._failure: tuple[float, BackendError | NotStartedError] | None = None

    async def includes(self, session: Session) -> bool:
        """Whether the session has been ended, alone or with all sessions of its user."""
        stored = await self._known()
        return (
            _ENDED + session.session_id in stored
            or stored.get(self._generation_key(session.username), "") != session.generation
        )

    async def generation(self, username: str) -> str:
        """The generation of new sessions of a user, as it is stored now."""
        return (await self._known(fresh=True)).get(self._generation_key(username), "")

    async def end(self, session_id: str, expires_at: float) -> None:
        """End one session; raises `BackendError` if that cannot be stored, and then it has not ended."""
        await self._write(_ENDED + session_id, str(expires_at))
        await self._forget_expired()

    async def end_all(self, username: str) -> None:
        """End all sessions of a user; raises `BackendError` if that cannot be stored, and then they have not ended."""
        await self._write(self._generation_key(username), secrets.token_hex(8))

    async def _write(self, key: str, value: str | None) -> None:
        await self._shared.write(key, value)
        self._changes += 1
        if self._stored is not None:
            if value is None:
                self._stored.pop(key, None)
            else:
                self._stored[key] = value

    async def _known(self, *, fresh: bool = False) -> dict[str, str]:
        # Each request comes here: those who have waited for a slow reading share the next one.
        asked = self._clock.monotonic()
        async with self._lock:
            now = self._clock.monotonic()
            while fresh or self._stored is None or asked - self._read_at > _FRESH:
                seen = self._changes
                try:
                    stored = await self._read(now)
                except (BackendError, NotStartedError):
                    if fresh or self._stored is None:
                        raise
                    self._read_at = now
                    break
                # Otherwise they may have been read before a change that was made here.
                if seen == self._changes:
                    self._stored, self._read_at = stored, now
                    break
            return self._stored or {}

    async def _read(self, now: float) -> dict[str, str]:
        # Requests wait for each other here, so that all of them together wait once a second for a backend that is down.
        if self._failure is not None and now - self._failure[0] <= _FRESH:
            raise self._failure[1]
        try:
            async with asyncio.timeout(_PATIENCE):
                stored = await self._shared.read(_PREFIX)
        except TimeoutError:
            late = BackendUnavailableError(f"the backend did not answer within {_PATIENCE:g} s")
            self._failure = self._clock.monotonic(), late
            raise late from None
        except (BackendError, NotStartedError) as exc:
            self._failure = self._clock.monotonic(), exc
            raise
        self._failure = None
        return stored

    async def _forget_expired(self) -> None:
        now = self._clock.now().timestamp()
        over = [key for key, value in (self._stored or {}).items() if key.startswith(_ENDED) and _expiry(value) < now]
        for key in over[:_FORGOTTEN_AT_ONCE]:
            await self._write(key, None)

    def _generation_key(self, username: str) -> str:
        text = f"{self._audience}\n{username}".encode("utf-8", "surrogatepass")
        return _GENERATION + hashlib.sha256(text).hexdigest()[:40]


def _expiry(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        # A damaged value keeps its session ended.
        return float("inf")
