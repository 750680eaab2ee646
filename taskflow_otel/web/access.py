"""Who may use one administration, put together from its settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.params import Depends as Dependency

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.web.app_login import AppLogin, RoleOf, is_dependency
from taskflow_otel.web.audit import AuditLog
from taskflow_otel.web.auth import AuthBackend
from taskflow_otel.web.ended_sessions import EndedSessions
from taskflow_otel.web.guard import Guard, PasswordAccess
from taskflow_otel.web.logins import Attempts, PasswordLogin
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.web.session_book import SessionBook
from taskflow_otel.web.sessions import Sessions
from taskflow_otel.web.throttle import LoginThrottle
from taskflow_otel.web.tokens import ApiToken, TokenBook
from taskflow_otel.web.users import NamedUsers, named_user

_log = logging.getLogger("taskflow_otel")

Named = tuple[str, str] | tuple[str, str, str]
AuthSetting = Named | Sequence[Named] | AuthBackend | Callable[..., Any] | Dependency | None


def make_guard(
    app: FastAPI,
    engine: TaskEngine,
    audit: AuditLog,
    sessions: Sessions,
    *,
    auth: AuthSetting,
    role: RoleOf | None,
    tokens: Sequence[ApiToken],
    metrics_token: str | None,
    read_only: bool,
) -> Guard:
    """The guard of one administration; raises `ConfigurationError`."""
    book, attempts = TokenBook(tokens), Attempts(LoginThrottle(), audit)
    access: PasswordAccess | AppLogin | None = None
    backend = _directory(auth)
    if backend is not None:
        if role is not None:
            raise ConfigurationError("role= belongs to an auth that is a dependency; a directory returns the role")
        login = PasswordLogin(backend, attempts)
        if not login.knows_users:
            _log.warning(
                "auth of TaskAdmin(%r) has no find(username), so a session keeps its role until it expires, even if "
                "the user is removed. Add find(username), which returns User(role, credential) or None.",
                sessions.audience,
            )
        ended = EndedSessions(engine.shared, sessions.audience)
        access = PasswordAccess(login, SessionBook(sessions, ended, login, engine))
    elif auth is not None:
        access = AppLogin(app, auth, role, sessions)
    elif tokens:
        raise ConfigurationError("tokens need auth: without it everything is open to everyone")
    elif role is not None:
        raise ConfigurationError("role= belongs to an auth that is a dependency, and there is no auth")
    return Guard(access, book, attempts, metrics_token=metrics_token, read_only=read_only)


def _directory(auth: object) -> AuthBackend | None:
    """The directory of users that `auth` names; `None` if it is a dependency, or nothing."""
    if isinstance(auth, AuthBackend):
        if isinstance(auth, type):
            raise ConfigurationError(f"auth is the class {auth.__name__}; give an object of it: {auth.__name__}()")
        return auth
    if auth is None or is_dependency(auth):
        return None
    match auth:
        case (str(_), str(_)) | (str(_), str(_), str(_)):
            return NamedUsers([named_user(auth)])
        case [_, *_]:
            return NamedUsers([named_user(entry) for entry in auth])
        case _:
            pass
    # The value could be a password without its user name, so the message does not contain it.
    raise ConfigurationError(
        "auth must be (user, password), a list of such pairs that is not empty, an object with "
        "authenticate(username, password) -> role, or a FastAPI dependency that returns the user; "
        f"it is {type(auth).__name__}"
    )
