"""Cookie sessions of users: begun by a login, checked at each request, and ended by a logout."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from fastapi import Request

from taskflow_otel.errors import BackendError, NotStartedError
from taskflow_otel.model.vocabulary import InstanceState
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.web.auth import Actor, Role, checked_role
from taskflow_otel.web.ended_sessions import EndedSessions
from taskflow_otel.web.logins import PasswordLogin
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.web.sessions import Session, Sessions


class Begun(NamedTuple):
    """A session that has just begun."""

    token: str
    actor: Actor


class SessionBook:
    """Connects signed tokens, the directory of users, and the sessions that have been ended."""

    def __init__(
        self,
        sessions: Sessions,
        ended: EndedSessions,
        login: PasswordLogin,
        engine: TaskEngine,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._sessions = sessions
        self._ended = ended
        self._login = login
        self._engine = engine
        self._clock = clock

    @property
    def lifetime(self) -> int:
        """Seconds until a session expires."""
        return self._sessions.lifetime

    async def begin(self, request: Request, username: str, role: Role) -> Begun:
        """Begin a session of a user who has just given the right password."""
        user = await self._login.find(username)
        if user is None and self._login.knows_users:
            raise TypeError(f"authenticate() accepts the user {username!r}, but find() does not know that user")
        generation = await self._ended.generation(username)
        if not self._sessions.key_is_shared and (neighbours := await self._count_neighbours()):
            self._sessions.warn_of_key(f"{neighbours} other instances on this machine share its backend")
        token, session = self._sessions.issue(
            username,
            role,
            credential="" if user is None else user.credential,
            generation=generation,
            place=_place(request),
        )
        return Begun(token, _actor(session, role))

    async def actor_of(self, request: Request, token: str) -> Actor | None:
        """The user of a session as they are now; `None` if the session is not valid any more."""
        session = self._sessions.read(token, _place(request))
        if session is None:
            return None
        role = session.role
        if self._login.knows_users:
            user = await self._login.find(session.username)
            if user is None or not self._sessions.is_stamp(session.stamp, session.username, user.credential):
                return None
            role = checked_role(user.role, "find()")
        if await self._ended.includes(session):
            return None
        return _actor(session, role)

    def refusal(self, request: Request, token: str) -> tuple[str, str]:
        """The user whom a session that is not valid names, and why it may not be, for the audit."""
        username, signed = self._sessions.claim_of(token, _place(request))
        return username, "an expired or ended session" if signed else "a session that this installation has not signed"

    async def end(self, actor: Actor, *, everywhere: bool = False) -> None:
        """End the session of an actor, or all sessions of that user; raises `BackendError`, and then nothing ended."""
        if actor.name is None or actor.session is None or actor.expires_at is None:
            return
        if everywhere:
            await self._ended.end_all(actor.name)
        else:
            await self._ended.end(actor.session, actor.expires_at)

    async def _count_neighbours(self) -> int:
        """The other living instances on this machine; they have another key than this one."""
        try:
            instances = await self._engine.lookup.instances()
        except (BackendError, NotStartedError):
            return 0  # a login can do without
        now = self._clock.now()
        here = {one.host for one in instances if one.instance_id == self._engine.instance_id}
        return sum(
            one.state == InstanceState.ALIVE and now - one.heartbeat_at < timedelta(seconds=one.lease_seconds)
            for one in instances
            if one.host in here and one.instance_id != self._engine.instance_id
        )


def _actor(session: Session, role: Role) -> Actor:
    return Actor(
        session.username,
        role,
        "session",
        expires_at=session.expires_at,
        csrf=session.csrf,
        session=session.session_id,
    )


def _place(request: Request) -> str:
    return str(request.scope.get("root_path", ""))
