"""Access control of the administration: every route under its path uses one of the entrances of `Guard`."""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from types import MethodType
from typing import NamedTuple, assert_never

from fastapi import HTTPException, Request

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.web.addresses import own_origins, stated_origin
from taskflow_otel.web.app_login import AppLogin, NoRole
from taskflow_otel.web.auth import Actor, Role, Scope, User
from taskflow_otel.web.entrance import Entrance, entrance, note_actor
from taskflow_otel.web.logins import Attempts, PasswordLogin
from taskflow_otel.web.refusals import Refusal
from taskflow_otel.web.schemes import API_TOKEN, BASIC, METRICS_TOKEN, SESSION, Scheme
from taskflow_otel.web.session_book import Begun, SessionBook
from taskflow_otel.web.sessions import COOKIE
from taskflow_otel.web.settings import is_text
from taskflow_otel.web.tokens import ApiToken, TokenBook
from taskflow_otel.wire.problems import READ_ONLY, UNTRUSTED_REQUEST

_log = logging.getLogger("taskflow_otel")

OPEN = Actor(None, Role.OPERATOR, "open")
_UNKNOWN_TOKEN = "unknown token"  # nosec B105  # words for the audit
_METRICS_ALONE = "the metrics token opens the metrics alone"
_LONGEST_UNCHECKED = timedelta(minutes=15)
"""How long a live stream lasts for a user whom no one can look up again; then the client must present itself anew."""


class PasswordAccess(NamedTuple):
    """Access by user names and passwords: the check, and the sessions that follow from it."""

    login: PasswordLogin
    sessions: SessionBook


class Watch(NamedTuple):
    """How long a live stream may last: until a moment (seconds since the epoch), and while `still` returns true."""

    until: float | None
    still: Callable[[], Awaitable[bool]] | None = None


class Guard:
    """Identifies the user of a request, and checks the permission.

    `access=None` leaves everything open. `metrics_token` is a bearer token for the metrics only.
    """

    def __init__(
        self,
        access: PasswordAccess | AppLogin | None,
        tokens: TokenBook,
        attempts: Attempts,
        *,
        metrics_token: str | None = None,
        read_only: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if metrics_token is not None and not is_text(metrics_token):
            raise ConfigurationError("metrics_token must be a text that is not empty")
        self._access = access
        self._tokens = tokens
        self._attempts = attempts
        self._metrics_token = metrics_token
        self._read_only = read_only
        self._clock = clock

    @property
    def is_open(self) -> bool:
        """Whether no login is needed."""
        return self._access is None

    @property
    def has_form(self) -> bool:
        """Whether people log in with the form of this administration."""
        return isinstance(self._access, PasswordAccess)

    @property
    def session_lifetime(self) -> int:
        """Seconds until a session expires; 0 if there are no sessions."""
        return self._access.sessions.lifetime if isinstance(self._access, PasswordAccess) else 0

    def schemes(self, *, metrics: bool) -> list[Scheme]:
        """The ways to log in, for OpenAPI; with `metrics` also those that are valid for the metrics alone."""
        found = [SESSION, BASIC] if isinstance(self._access, PasswordAccess) else []
        if isinstance(self._access, AppLogin):
            found += self._access.schemes
        if not (self.is_open or self._tokens.is_empty):
            found.append(API_TOKEN)
        if metrics and self._metrics_token is not None:
            found.append(METRICS_TOKEN)
        return found

    def may_act(self, actor: Actor) -> bool:
        """Whether the actor may change anything."""
        return actor.role is Role.OPERATOR and not self._read_only

    @entrance
    async def viewer(self, request: Request) -> Actor:
        """A user who may read (a FastAPI dependency)."""
        actor = await self._enter(request)
        if not actor.has_scope(Scope.READ):
            raise _lacking(actor, Scope.READ)
        return actor

    @entrance
    async def operator(self, request: Request) -> Actor:
        """A user who may act, but no API token; also checks for CSRF (a FastAPI dependency)."""
        return await self._act(request, None)

    def acting(self, scope: Scope) -> Entrance:
        """The entrance `operator`, also for API tokens with this scope."""

        @entrance
        async def operator(_: Guard, request: Request) -> Actor:
            return await self._act(request, scope)

        return MethodType(operator, self)

    def require(self, actor: Actor, scope: Scope) -> None:
        """Refuse an API token without a further scope, after one of the entrances."""
        if not actor.has_scope(scope):
            raise _lacking(actor, scope)

    @entrance
    async def scraper(self, request: Request) -> Actor:
        """A user who may read, or the bearer of the metrics token (a FastAPI dependency)."""
        bearer = _bearer(request)
        if self._metrics_token is not None:
            if self._is_metrics_token(bearer):
                return Actor(None, Role.VIEWER, "token")
            if self.is_open:
                if bearer is not None:
                    self._attempts.failed(request, "token-login", _UNKNOWN_TOKEN)
                raise HTTPException(
                    401, detail="the metrics need their bearer token", headers={"WWW-Authenticate": "Bearer"}
                )
        actor = await self._enter(request)
        if not (actor.has_scope(Scope.READ) or actor.has_scope(Scope.METRICS)):
            raise _lacking(actor, Scope.METRICS)
        return actor

    async def identify(self, request: Request) -> Actor:
        """The user of the request; answers 401 without a login, 429 after too many failures, or as the app answers."""
        if self._access is None:
            return OPEN
        bearer = _bearer(request)
        if bearer is not None and (token := self._tokens.find(bearer)) is not None:
            return self._holder(request, token)
        if isinstance(self._access, AppLogin):
            return await self._signed_in_by_app(request, self._access)
        cookie = request.cookies.get(COOKIE)
        if cookie and (actor := await self._access.sessions.actor_of(request, cookie)):
            return actor
        if credentials := _basic_credentials(request):
            username, password = credentials
            if role := await self._access.login.role_of(request, username, password):
                return Actor(username, role, "basic")
        elif self._is_metrics_token(bearer):
            self._attempts.noted(request, "token-login", "metrics token", _METRICS_ALONE)
            raise HTTPException(401, detail=_METRICS_ALONE, headers=_challenge(request))
        elif bearer is not None:
            self._attempts.failed(request, "token-login", _UNKNOWN_TOKEN)
        elif cookie:
            # Not counted as a guess: browsers repeat a session that has ended, and a signature cannot be guessed.
            self._attempts.noted(request, "session-login", *self._access.sessions.refusal(request, cookie))
        raise HTTPException(401, detail="log in first", headers=_challenge(request))

    async def log_in(self, request: Request, username: str, password: str) -> Begun | None:
        """A new session, or `None` for a wrong password; answers 429 after too many failures."""
        if not isinstance(self._access, PasswordAccess):
            raise HTTPException(404, detail="this administration has no login form")
        role = await self._access.login.role_of(request, username, password)
        return None if role is None else await self._access.sessions.begin(request, username, role)

    async def log_out(self, actor: Actor, *, everywhere: bool) -> None:
        """End the session of the actor, or all sessions of that user, on all instances; raises `BackendError`."""
        if isinstance(self._access, PasswordAccess):
            await self._access.sessions.end(actor, everywhere=everywhere)

    async def watch(self, request: Request, actor: Actor) -> Watch:
        """How long the actor may follow the live stream."""
        match actor.via, self._access:
            case "session", PasswordAccess() as access:
                cookie = request.cookies[COOKIE]
                still = partial(_same, actor, partial(access.sessions.actor_of, request, cookie))
                return Watch(actor.expires_at, partial(_holds, still))
            case "basic", PasswordAccess(login) if login.knows_users:
                name = actor.name or ""
                still = partial(_unchanged, await login.find(name), partial(login.find, name))
                return Watch(None, partial(_holds, still))
            case "basic", _:
                return Watch((self._clock.now() + _LONGEST_UNCHECKED).timestamp())
            case "app", AppLogin() as app_login:
                return Watch(None, partial(_holds, partial(_same, actor, partial(app_login.actor_of, request))))
            case _:
                return Watch(actor.expires_at)

    def check_intent(self, request: Request, actor: Actor) -> None:
        """Refuse a request that another site made the browser send (CSRF).

        A cookie session must send its token in `X-CSRF-Token`. For credentials that browsers repeat by themselves, and
        for open installations, the origin in the browser's headers must match. Other clients send none, and are
        refused if they send cookies. An API token is not sent by a browser on its own.
        """
        proof = request.headers.get("x-csrf-token", "")
        match actor.via:
            case "token":
                return
            case "session":
                if not _equal(proof, actor.csrf or ""):
                    raise Refusal(
                        UNTRUSTED_REQUEST, "the X-CSRF-Token header is missing or does not belong to this session"
                    )
            case "app":
                if actor.csrf is not None and _equal(proof, actor.csrf):
                    return
                check_same_origin(request)
                if "cookie" in request.headers and not _tells_origin(request):
                    raise Refusal(
                        UNTRUSTED_REQUEST,
                        "a request with cookies must show where it comes from: send the csrf_token of "
                        "GET /session in the header X-CSRF-Token, or an Origin header",
                    )
            case "basic" | "open":
                check_same_origin(request)
            case _:
                assert_never(actor.via)

    async def _act(self, request: Request, scope: Scope | None) -> Actor:
        actor = await self._enter(request)
        if self._read_only:
            raise Refusal(
                READ_ONLY, "this administration is read-only: it has TaskAdmin(read_only=True); use another one"
            )
        if actor.scopes is not None and (scope is None or scope not in actor.scopes):
            raise _lacking(actor, scope)
        if actor.role is not Role.OPERATOR:
            raise HTTPException(403, detail="your role is viewer; this needs the role operator")
        self.check_intent(request, actor)
        return actor

    async def _enter(self, request: Request) -> Actor:
        try:
            return note_actor(request, await self.identify(request))
        except HTTPException as exc:
            # The application leads people to its login page. A program that reads JSON must not read that page.
            if 300 <= exc.status_code < 400:
                raise HTTPException(401, detail="log in first") from exc
            raise

    def _is_metrics_token(self, bearer: str | None) -> bool:
        return bearer is not None and self._metrics_token is not None and _equal(bearer, self._metrics_token)

    def _holder(self, request: Request, token: ApiToken) -> Actor:
        if self._tokens.has_expired(token):
            self._attempts.failed(request, "token-login", token.name, "the token has expired")
            raise HTTPException(401, detail=f"the API token {token.name!r} has expired", headers=_challenge(request))
        return token.actor

    async def _signed_in_by_app(self, request: Request, login: AppLogin) -> Actor:
        try:
            return await login.actor_of(request)
        except HTTPException as exc:
            # Without a credential it is no attempt. The application limits those; the audit is limited here.
            if exc.status_code == 403 or (exc.status_code < 500 and login.is_tried_by(request)):
                user, why = (
                    (exc.user, "the account has no role here")
                    if isinstance(exc, NoRole)
                    else ("by the application", "refused by the application")
                )
                with suppress(HTTPException):
                    # A redirect leads to the login of the application, so it is 401 here.
                    status = 403 if exc.status_code == 403 else 401
                    self._attempts.failed(request, "login", user, why, status=status)
            raise


async def _same(actor: Actor, identify: Callable[[], Awaitable[Actor | None]]) -> bool:
    found = await identify()
    return found is not None and (found.name, found.role) == (actor.name, actor.role)


async def _unchanged(before: User | None, find: Callable[[], Awaitable[User | None]]) -> bool:
    return await find() == before


async def _holds(check: Callable[[], Awaitable[bool]]) -> bool:
    """Whether a user may still follow the stream; not if the application cannot say so, whatever it raises."""
    try:
        return await check()
    except HTTPException:
        return False
    except Exception as exc:
        _log.warning("a live stream ends, because its user could not be looked up again: %s", type(exc).__name__)
        _log.debug("the error of the look-up", exc_info=exc)
        return False


def check_same_origin(request: Request) -> None:
    """Refuse a request from another site, by the browser's headers (Fetch Metadata, RFC 6454 Origin)."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        if site not in {"same-origin", "none"}:
            raise Refusal(UNTRUSTED_REQUEST, "this request was made by a page of another site; use the page here")
    elif origin is not None and stated_origin(request) not in own_origins(request):
        raise Refusal(
            UNTRUSTED_REQUEST,
            f"this request was made by a page of another site, {origin[:100]!a}. If that is this site behind a "
            "proxy, let the proxy keep the header Host and send X-Forwarded-Proto",
        )


def _tells_origin(request: Request) -> bool:
    return "origin" in request.headers or "sec-fetch-site" in request.headers


def _lacking(actor: Actor, scope: Scope | None) -> HTTPException:
    if scope is None:
        return HTTPException(403, detail="this needs a person; no API token may do it")
    return HTTPException(403, detail=f"the API token {actor.name!r} does not have the scope {scope.value!r}")


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode("utf-8", "replace"))


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


# Not FastAPI's HTTPBasic: it reads only ASCII, and answers a damaged header itself, without our challenge.
def _basic_credentials(request: Request) -> tuple[str, str] | None:
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        username, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (username, password) if colon else None


def _challenge(request: Request) -> dict[str, str]:
    # The page has its own login form; a challenge would open the browser's dialog over it.
    if "sec-fetch-mode" in request.headers or "text/event-stream" in request.headers.get("accept", ""):
        return {}
    return {"WWW-Authenticate": 'Basic realm="taskflow", charset="UTF-8"'}
