"""Sign-in by the application's own authentication: any FastAPI dependency that returns a user or raises."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends as Dependency
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from starlette.exceptions import HTTPException as AnyHTTPException

from taskflow_otel.compat.fastapi import own_stacks, query_names, security_schemes, what_is_read
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.web.auth import Actor, checked_role
from taskflow_otel.web.entrance import add_to_answer, allow_parameters
from taskflow_otel.web.schemes import Scheme
from taskflow_otel.web.sessions import Sessions

RoleOf = Callable[[Any], object]

_ACTOR = "taskflow_otel.app_actor"
_USUAL_HEADERS = frozenset({"accept", "accept-language", "host", "origin", "referer", "user-agent", "x-forwarded-for"})
"""Headers that a sign-in may read, and that are no credentials."""
_CREDENTIAL = re.compile(r"(?i)auth|cred|key|secret|session|token|user(?!-agent)")
"""Names of headers and parameters that could hold a credential."""
_NAMES = ("username", "preferred_username", "name", "email", "sub", "id")


def is_dependency(auth: object) -> bool:
    """Whether a value of `auth` is a FastAPI dependency."""
    return isinstance(auth, Dependency) or callable(auth)


class NoRole(HTTPException):  # an answer
    """The answer to a user of the application whose role here is `None`. `user`: the name, for the audit."""

    def __init__(self, user: str) -> None:
        super().__init__(403, detail=f"{user} may not use this administration: the account has no role here")
        self.user = user


class AppLogin:
    """Identifies users by a dependency of the application.

    `auth`: a callable of any kind that FastAPI takes as a dependency, or `Depends(...)` or `Security(...)` around one.
    It is called before the request is read, and closed before the request is answered. `role`: from the user to
    `viewer`, `operator` or `None`; may be a coroutine function.

    Raises `ConfigurationError`.
    """

    def __init__(self, app: FastAPI, auth: Any, role: RoleOf | None, sessions: Sessions) -> None:
        marker = auth if isinstance(auth, Dependency) else Depends(auth)
        if not callable(marker.dependency):
            raise ConfigurationError("auth=Depends() needs the dependency: Depends(get_current_user)")
        if isinstance(marker.dependency, SecurityBase):
            raise ConfigurationError(
                f"auth={type(marker.dependency).__name__}(...) only reads a credential and accepts any; give a "
                "dependency that checks the credential and returns the user"
            )
        if not callable(role):
            raise ConfigurationError(
                "auth is a dependency, so role= is needed: a function that returns 'viewer', 'operator' or None for a "
                "user, such as role=lambda user: 'operator' if user.is_admin else None"
            )
        self._role = role
        self._sessions = sessions

        async def knock(request: Request, user: Any = marker) -> None:
            # Inside the dependency, because a user may need its database session to answer.
            request.scope[_ACTOR] = await self._actor(user)

        # A response of FastAPI, because only that has what a dependency adds to it.
        route = APIRoute("/", knock, status_code=204, dependency_overrides_provider=app)
        if route.body_field is not None:
            raise ConfigurationError("auth must not take the request's body: access is decided before it is read")
        self._handle = route.get_route_handler()
        self._parameters = query_names(route.dependant)
        self.schemes: list[Scheme] = [
            Scheme(scheme.scheme_name, scheme.model) for scheme in security_schemes(route.dependant)
        ]
        """How the application reads credentials, for OpenAPI."""
        self._credentials = what_is_read(route.dependant.dependencies[0])

    def is_tried_by(self, request: Request) -> bool:
        """Whether a request has something that could be a credential, as far as the dependency says what it reads."""
        read, headers = self._credentials, request.headers.keys()
        if read.anything:
            return bool(request.cookies) or any(map(_CREDENTIAL.search, [*headers, *request.query_params]))
        return (
            "authorization" in headers
            or any(name in headers for name in read.headers - _USUAL_HEADERS)
            or any(name in request.query_params for name in read.queries)
            or any(name in request.cookies for name in read.cookies)
        )

    async def actor_of(self, request: Request) -> Actor:
        """The user of a request. Raises what the dependency raises; answers 401 to a user who is nobody."""
        allow_parameters(request, self._parameters)
        request.scope.pop(_ACTOR, None)
        try:
            async with own_stacks(request.scope):
                add_to_answer(request, await self._handle(request))
        except RequestValidationError as exc:
            names = ", ".join(str(error["loc"][-1]) for error in exc.errors())
            raise HTTPException(401, detail=f"log in first: the sign-in of this application needs {names}") from None
        except NoRole:
            raise
        except AnyHTTPException as exc:
            raise HTTPException(exc.status_code, detail=exc.detail, headers=exc.headers) from exc
        actor: Actor = request.scope[_ACTOR]
        return actor

    async def _actor(self, user: Any) -> Actor:
        if user is None or user == "":
            raise HTTPException(401, detail="log in first")
        role = self._role(user)
        if inspect.isawaitable(role):
            role = await role
        name = name_of(user)
        if role is None:
            raise NoRole(name)
        return Actor(name, checked_role(role, "role()"), "app", csrf=self._sessions.proof_for(name))


def name_of(user: Any) -> str:
    """The name of a user for the audit: a text itself, else the first of the usual fields, never the whole object."""
    if isinstance(user, str):
        return user
    for field in _NAMES:
        value = user.get(field) if isinstance(user, Mapping) else getattr(user, field, None)
        if value is not None and not callable(value) and str(value):
            return str(value)
    return type(user).__name__
