"""Authentication: roles, users, and the limit on wrong passwords."""

from __future__ import annotations

import hashlib
import hmac
import inspect
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from taskflow_otel.errors import ConfigurationError, TaskflowError
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.wire.bodies import Role as Role  # noqa: PLC0414  # users import it from here


@dataclass(frozen=True, slots=True)
class Actor:
    """The user of a request. `expires_at` (seconds since the epoch) and `csrf` belong to a cookie session."""

    name: str | None
    role: Role
    via: Literal["open", "basic", "session", "token"]
    expires_at: float | None = None
    csrf: str | None = None


@runtime_checkable
class AuthBackend(Protocol):
    """Checks a user name and a password; may be a coroutine.

    Returns the role, or `None` if name and password are wrong. A synchronous method must not block.
    """

    def authenticate(self, username: str, password: str) -> Role | str | Awaitable[Role | str | None] | None: ...


AuthSetting = tuple[str, str] | Sequence[tuple[str, str]] | AuthBackend | None


class StaticUsers:
    """A fixed list of users, all of them operators, compared in constant time."""

    def __init__(self, users: Sequence[tuple[str, str]]) -> None:
        for name, _ in users:
            if ":" in name:
                raise ConfigurationError(f"the user name {name!r} contains a colon, which HTTP Basic cannot carry")
        if len({name for name, _ in users}) != len(users):
            raise ConfigurationError("auth names one user twice")
        self._digests = [_credential_digest(name, password) for name, password in users]

    def authenticate(self, username: str, password: str) -> Role | None:
        """The role of the user, or `None`. The time does not depend on the user or on the position of a difference."""
        given = _credential_digest(username, password)
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(digest, given)
        return Role.OPERATOR if found else None


def _credential_digest(username: str, password: str) -> bytes:
    return hashlib.sha256(f"{len(username)}:{username}:{password}".encode("utf-8", "surrogatepass")).digest()


def make_auth_backend(auth: object) -> AuthBackend | None:
    """Return the authentication backend for the `auth` setting; raises `ConfigurationError`."""
    if auth is None:
        return None
    if isinstance(auth, AuthBackend):
        return auth
    match auth:
        case (str(name), str(password)) if name and password:
            return StaticUsers([(name, password)])
        case [_, *_]:
            return StaticUsers([_pair(user) for user in auth])
        case _:
            pass
    # The value could be a password without its user name, so the message does not contain it.
    raise ConfigurationError(
        "auth must be (user, password), a list of such pairs that is not empty, or an object with "
        f"authenticate(username, password) -> role; it is {type(auth).__name__}"
    )


def _pair(user: object) -> tuple[str, str]:
    match user:
        case (str(name), str(password)) if name and password:
            return name, password
        case _:
            raise ConfigurationError("each entry of auth must be (user, password), two texts that are not empty")


class TooManyLoginsError(TaskflowError):
    """Too many wrong passwords; `retry_after` is in seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"too many failed logins; try again in {retry_after:.0f} s")
        self.retry_after = retry_after


class LoginThrottle:
    """Counts failed logins per key over a sliding window (seconds) and refuses further ones beyond the limit."""

    _MAX_KEYS = 10_000
    _MAX_IN_FLIGHT = 20  # otherwise all parallel guesses would pass before the first one has failed

    def __init__(self, *, window: float = 60.0, clock: Clock = SYSTEM_CLOCK) -> None:
        self._window = window
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._in_flight: dict[str, int] = {}

    @contextmanager
    def attempt(self, limits: dict[str, int]) -> Iterator[Callable[[], None]]:
        """Count one login under each key; yields a function to call if it failed. Raises `TooManyLoginsError`."""
        for key, limit in limits.items():
            self._refuse_if_over(key, limit)
        for key in limits:
            self._in_flight[key] = self._in_flight.get(key, 0) + 1
        try:
            yield lambda: self._count(limits)
        finally:
            for key in limits:
                self._in_flight[key] -= 1
                if not self._in_flight[key]:
                    del self._in_flight[key]

    def _refuse_if_over(self, key: str, limit: int) -> None:
        now = self._clock.monotonic()
        failures = self._failures.get(key, deque())
        while failures and failures[0] <= now - self._window:
            failures.popleft()
        if len(failures) >= limit:
            raise TooManyLoginsError(failures[-limit] + self._window - now)
        if self._in_flight.get(key, 0) >= self._MAX_IN_FLIGHT:
            raise TooManyLoginsError(1.0)

    def _count(self, limits: dict[str, int]) -> None:
        for key, limit in limits.items():
            self._failures.setdefault(key, deque(maxlen=limit)).append(self._clock.monotonic())
            self._failures.move_to_end(key)
        while len(self._failures) > self._MAX_KEYS:
            self._failures.popitem(last=False)


class Authenticator:
    """Calls the authentication backend, with the limit on wrong passwords."""

    def __init__(self, backend: AuthBackend, throttle: LoginThrottle) -> None:
        self._backend = backend
        self._throttle = throttle

    async def role_of(self, username: str, password: str, client: str) -> Role | None:
        """The role of a user with a correct password, else `None`. Raises `TooManyLoginsError`."""
        # Hashed, so that long invented names need little memory.
        pair = hashlib.sha256(f"{client}\n{username}".encode("utf-8", "surrogatepass")).hexdigest()
        with self._throttle.attempt({pair: 5, client: 50}) as failed:
            answer = self._backend.authenticate(username, password)
            if inspect.isawaitable(answer):
                answer = await answer
            if answer is None:
                failed()
                return None
            try:
                return Role(answer)
            except ValueError:
                raise TypeError(f"authenticate() must return 'viewer', 'operator' or None, not {answer!r}") from None
