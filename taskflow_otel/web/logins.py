"""Attempts to get in: throttled, and audited when they fail."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException, Request

from taskflow_otel.model.vocabulary import AuditOutcome
from taskflow_otel.web.audit import AuditLog
from taskflow_otel.web.auth import AuthBackend, Role, User, UserDirectory, checked_role
from taskflow_otel.web.throttle import Attempt, LoginThrottle, TooManyLoginsError

_LONGEST_TARGET = 200


class Attempts:
    """Counts attempts by network and account, and records those that fail, whatever kind of secret was wrong."""

    def __init__(self, throttle: LoginThrottle, audit: AuditLog) -> None:
        self._throttle = throttle
        self._audit = audit

    @contextmanager
    def of(
        self,
        request: Request,
        action: str,
        target: str,
        *,
        account: str | None = None,
        why: str = "wrong credentials",
        status: int = 401,
    ) -> Iterator[Attempt]:
        """One attempt; answers 429 with `Retry-After` after too many failures. `target` must not contain a secret."""
        try:
            with self._throttle.attempt(request.client.host if request.client else "", account) as attempt:
                yield attempt
        except TooManyLoginsError as exc:
            if exc.first:
                # Once for each delay, so that a flood of guesses is not a flood of entries.
                self.noted(request, action, target, "too many failures", status=429)
            headers = {"Retry-After": str(max(1, math.ceil(exc.retry_after)))}
            raise HTTPException(429, detail=str(exc), headers=headers) from None
        if attempt.outcome is False:
            self.noted(request, action, target, why, status=status)

    def noted(self, request: Request, action: str, target: str, why: str, *, status: int = 401) -> None:
        """Record a refusal that does not count as a guess."""
        target = target[:_LONGEST_TARGET]
        self._audit.record(request, None, action, target, AuditOutcome.REFUSED, status=status, detail=why)

    def failed(
        self, request: Request, action: str, target: str, why: str = "wrong credentials", *, status: int = 401
    ) -> None:
        """Count and record a failure that has happened; answers 429 as `of` does."""
        with self.of(request, action, target, why=why, status=status) as attempt:
            attempt.failed()


class PasswordLogin:
    """Checks user names and passwords with the directory of the application."""

    def __init__(self, backend: AuthBackend, attempts: Attempts) -> None:
        self._backend = backend
        self._attempts = attempts

    @property
    def knows_users(self) -> bool:
        """Whether a user can be looked up without the password."""
        return isinstance(self._backend, UserDirectory)

    async def role_of(self, request: Request, username: str, password: str) -> Role | None:
        """The role of a user with a correct password, else `None`; answers 429 after too many wrong ones."""
        with self._attempts.of(request, "login", username, account=username) as attempt:
            answer = self._backend.authenticate(username, password)
            if inspect.isawaitable(answer):
                answer = await answer
            if answer is None:
                attempt.failed()
                return None
            attempt.succeeded()
        return checked_role(answer, "authenticate()")

    async def find(self, username: str) -> User | None:
        """The user as the directory knows them now; for one without `find`, nothing (see `knows_users`)."""
        if not isinstance(self._backend, UserDirectory):
            return None
        user = self._backend.find(username)
        return await user if inspect.isawaitable(user) else user
