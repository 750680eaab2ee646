"""The users that `TaskAdmin(auth=...)` names: a directory that never changes."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import NamedTuple

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.web.auth import Role, User
from taskflow_otel.web.passwords import PasswordHashes, is_hash

_SHAPE = "each entry of auth must be (user, password) or (user, password, role), texts that are not empty"


class NamedUser(NamedTuple):
    """One entry of `auth`: a name, a password or its hash, and a role."""

    name: str
    password: str
    role: Role = Role.OPERATOR


def named_user(entry: object) -> NamedUser:
    """Check one entry; raises `ConfigurationError`, whose message does not contain the password."""
    match entry:
        case (str(name), str(password)) if name and password:
            return NamedUser(name, password)
        case (str(name), str(password), str(role)) if name and password:
            if role not in list(Role):
                raise ConfigurationError(f"the role of the user {name!r} must be 'viewer' or 'operator', not {role!r}")
            return NamedUser(name, password, Role(role))
        case _:
            raise ConfigurationError(_SHAPE)


class NamedUsers:
    """A fixed list of users. The time of a check depends neither on the user nor on the position of a difference."""

    def __init__(self, users: Sequence[NamedUser]) -> None:
        for user in users:
            if ":" in user.name:
                raise ConfigurationError(f"the user name {user.name!r} contains a colon, which HTTP Basic cannot carry")
        if len({user.name for user in users}) != len(users):
            raise ConfigurationError("auth names one user twice")
        self._hashed = {user.name: user.password for user in users if is_hash(user.password)}
        self._hashes = PasswordHashes(self._hashed.values()) if self._hashed else None
        self._plain = [
            (_credential_digest(user.name, user.password), user.role) for user in users if user.name not in self._hashed
        ]
        self._roles = {user.name: user.role for user in users}
        self._credentials = {
            user.name: self._hashed.get(user.name) or _credential_digest(user.name, user.password).hex()
            for user in users
        }

    async def authenticate(self, username: str, password: str) -> Role | None:
        """The role of the user, or `None`. The work is the same for every user, and for a name that no one has."""
        given = _credential_digest(username, password)
        found: Role | None = None
        for digest, role in self._plain:
            if hmac.compare_digest(digest, given):
                found = role
        if self._hashes is not None and await self._hashes.matches(self._hashed.get(username), password):
            found = self._roles[username]
        return found

    def find(self, username: str) -> User | None:
        """The user, or `None`."""
        role = self._roles.get(username)
        return None if role is None else User(role, self._credentials[username])


def _credential_digest(username: str, password: str) -> bytes:
    return hashlib.sha256(f"{len(username)}:{username}:{password}".encode("utf-8", "surrogatepass")).digest()
