"""Users of a closed administration, and how they log in."""

from __future__ import annotations

import argon2

from taskflow_otel import User

PROBES = {"/tasks/livez", "/tasks/readyz"}
"""What needs no login."""

USER = ("ada", "correct horse")


FORM = {"username": USER[0], "password": USER[1]}

QUICK = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
"""Makes hashes that cost nothing, for tests."""


class Directory:
    """A directory with both roles, whose users a test changes. The credential of a user is the password."""

    def __init__(self) -> None:
        self.users = {"ada": User("operator", "right"), "vic": User("viewer", "right")}

    async def authenticate(self, username: str, password: str) -> str | None:
        user = self.users.get(username)
        return str(user.role) if user is not None and user.credential == password else None

    async def find(self, username: str) -> User | None:
        return self.users.get(username)


class PasswordsOnly:
    """A directory that knows no user without the password."""

    def authenticate(self, username: str, password: str) -> str | None:
        return "operator" if password == "right" else None
