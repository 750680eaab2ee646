"""API tokens: what scripts present instead of a password."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.web.auth import Actor, Role, Scope
from taskflow_otel.web.settings import is_text

_READING = frozenset({Scope.READ, Scope.METRICS})
_SHORTEST = 32
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ADVICE = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A bearer token for a script.

    `name`: how the audit shows its actions. `secret`: the token, or its SHA-256 digest as `sha256:` and 64 hexadecimal
    digits; only the digest is kept. The token must be random, with at least 32 characters, since a fast digest protects
    no password. `scopes`: what it may do, from `read`, `metrics`, `retry`, `edit`, `cancel`, `inspect`, `history`,
    `queues`, `tick` and `schedules`. `expires_at`: an aware datetime.

    Raises `ConfigurationError`.
    """

    name: str
    secret: str = field(repr=False)
    scopes: Collection[Scope | str] = (Scope.READ,)
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        if not is_text(self.name):
            raise ConfigurationError("an API token needs a name, which the audit shows")
        if not isinstance(self.secret, str) or len(self.secret) < _SHORTEST:
            raise ConfigurationError(
                f"the secret of the API token {self.name!r} must have at least {_SHORTEST} characters; {_ADVICE}"
            )
        if self.secret.startswith("sha256:") and not _DIGEST.fullmatch(self.secret):
            raise ConfigurationError(
                f"the digest of the API token {self.name!r} must be sha256: and 64 digits of 0-9a-f"
            )
        if not _DIGEST.fullmatch(self.secret):
            object.__setattr__(self, "secret", _digest(self.secret))
        given = [self.scopes] if isinstance(self.scopes, str) else list(self.scopes)
        if not given or any(scope not in list(Scope) for scope in given):
            raise ConfigurationError(
                f"the scopes of the API token {self.name!r} must be some of {', '.join(Scope)}, not {given!r}"
            )
        object.__setattr__(self, "scopes", frozenset(Scope(scope) for scope in given))
        if self.expires_at is not None and (
            not isinstance(self.expires_at, datetime) or self.expires_at.tzinfo is None
        ):
            raise ConfigurationError(f"expires_at of the API token {self.name!r} must be a datetime with a time zone")

    @property
    def actor(self) -> Actor:
        """The actor of the requests with this token."""
        scopes = frozenset(Scope(scope) for scope in self.scopes)
        return Actor(
            self.name,
            Role.VIEWER if scopes <= _READING else Role.OPERATOR,
            "token",
            expires_at=None if self.expires_at is None else self.expires_at.timestamp(),
            scopes=scopes,
        )


class TokenBook:
    """The tokens of one administration; raises `ConfigurationError` if two have one name or one secret."""

    def __init__(self, tokens: Sequence[ApiToken], *, clock: Clock = SYSTEM_CLOCK) -> None:
        if not all(isinstance(token, ApiToken) for token in tokens):
            raise ConfigurationError("tokens must be a list of ApiToken(name, secret, scopes)")
        for what, values in (
            ("name", [token.name for token in tokens]),
            ("secret", [token.secret for token in tokens]),
        ):
            if len(set(values)) != len(values):
                raise ConfigurationError(f"two API tokens have the same {what}")
        self._tokens = list(tokens)
        self._clock = clock

    @property
    def is_empty(self) -> bool:
        """Whether there is no token."""
        return not self._tokens

    def find(self, given: str) -> ApiToken | None:
        """The token of a secret, valid or expired, else `None`. The time does not depend on the tokens' secrets."""
        digest = _digest(given).encode()
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.secret.encode(), digest):
                found = token
        return found

    def has_expired(self, token: ApiToken) -> bool:
        """Whether the token is not valid any more."""
        return token.expires_at is not None and token.expires_at <= self._clock.now()


def _digest(secret: str) -> str:
    return f"sha256:{hashlib.sha256(secret.encode('utf-8', 'surrogatepass')).hexdigest()}"
