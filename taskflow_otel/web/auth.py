"""Who may use the administration: roles, scopes, actors, and the contracts of a directory of users."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable

from taskflow_otel.wire.bodies import Role as Role  # noqa: PLC0414  # users import it from here


class Scope(StrEnum):
    """What an API token may do."""

    READ = "read"
    """Everything that changes nothing, the metrics included."""
    METRICS = "metrics"
    """The metrics alone."""
    RETRY = "retry"
    EDIT = "edit"
    """Retry with other arguments; needs `retry` too."""
    CANCEL = "cancel"
    INSPECT = "inspect"
    """Ask where a running task is."""
    HISTORY = "history"
    """Delete finished tasks."""
    QUEUES = "queues"
    """Pause queues and change their limits."""
    TICK = "tick"
    """Let what is due run, in a process that is frozen between requests."""
    SCHEDULES = "schedules"
    """Run, pause and resume schedules."""


@dataclass(frozen=True, slots=True)
class Actor:
    """The user of a request.

    `expires_at`: seconds since the epoch. `csrf`: the proof that a request comes from the page. `session`: the id of a
    cookie session. `scopes`: what an API token may do; `None` means everything that the role may.
    """

    name: str | None
    role: Role
    via: Literal["open", "basic", "session", "token", "app"]
    expires_at: float | None = None
    csrf: str | None = None
    session: str | None = None
    scopes: frozenset[Scope] | None = None

    def has_scope(self, scope: Scope) -> bool:
        """Whether the scopes of the actor include this one."""
        return self.scopes is None or scope in self.scopes


@dataclass(frozen=True, slots=True)
class User:
    """A user as the directory knows them now.

    `credential`: a text that changes with the password, such as its hash or the time of the last change. Sessions from
    before the change end.
    """

    role: Role | str
    credential: str = ""


@runtime_checkable
class AuthBackend(Protocol):
    """Checks a user name and a password; may be a coroutine.

    Returns the role, or `None` if name and password are wrong. A synchronous method must not block.
    """

    def authenticate(self, username: str, password: str) -> Role | str | Awaitable[Role | str | None] | None: ...


@runtime_checkable
class UserDirectory(AuthBackend, Protocol):
    """Also knows its users without their password, so that a change of a user takes effect at the next request."""

    def find(self, username: str) -> User | Awaitable[User | None] | None:
        """The user, or `None` if there is no such user any more; may be a coroutine, and must not block."""


class TaskAuthBackend(ABC):
    """A directory that only knows whether a user name and a password are right; each of its users is an operator.

    A subclass may also have `find(username)`, see `UserDirectory`.
    """

    @abstractmethod
    def authenticate_user(self, username: str, password: str) -> bool:
        """Whether they are right; must not block."""

    def authenticate(self, username: str, password: str) -> Role | None:
        """The role of the user, or `None`."""
        return Role.OPERATOR if self.authenticate_user(username, password) else None


def checked_role(role: object, source: str) -> Role:
    """The role that a function of the application has returned; raises `TypeError`."""
    try:
        return Role(role)  # type: ignore[arg-type]  # any other value is refused
    except ValueError:
        raise TypeError(f"{source} must return 'viewer', 'operator' or None, not {role!r}") from None
