"""Access control of the administration: every route under its path uses one of the methods of `Guard`."""

from __future__ import annotations

import base64
import binascii
import hmac
import math

from fastapi import HTTPException, Request

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.web.addresses import own_origins, stated_origin
from taskflow_otel.web.auth import Actor, Authenticator, Role, TooManyLoginsError
from taskflow_otel.web.entrance import entrance
from taskflow_otel.web.sessions import COOKIE, Sessions
from taskflow_otel.web.settings import is_text

OPEN = Actor(None, Role.OPERATOR, "open")


class Guard:
    """Identifies the user of a request, and checks the permission.

    `authenticator=None` leaves everything open. `metrics_token` is a bearer token for the metrics only.
    """

    def __init__(
        self,
        authenticator: Authenticator | None,
        sessions: Sessions,
        *,
        metrics_token: str | None = None,
        read_only: bool = False,
    ) -> None:
        if metrics_token is not None and not is_text(metrics_token):
            raise ConfigurationError("metrics_token must be a text that is not empty")
        self._authenticator = authenticator
        self._sessions = sessions
        self._metrics_token = metrics_token
        self._read_only = read_only

    @property
    def is_open(self) -> bool:
        """Whether no login is needed."""
        return self._authenticator is None

    def may_act(self, actor: Actor) -> bool:
        """Whether the actor may change anything."""
        return actor.role is Role.OPERATOR and not self._read_only

    @entrance
    async def viewer(self, request: Request) -> Actor:
        """A user who may read (a FastAPI dependency)."""
        return await self.identify(request)

    @entrance
    async def operator(self, request: Request) -> Actor:
        """A user who may act; also checks for CSRF (a FastAPI dependency)."""
        actor = await self.identify(request)
        if self._read_only:
            raise HTTPException(403, detail="this administration is read-only (TaskAdmin(read_only=True))")
        if actor.role is not Role.OPERATOR:
            raise HTTPException(403, detail="your role is viewer; this needs the role operator")
        self.check_intent(request, actor)
        return actor

    @entrance
    async def scraper(self, request: Request) -> Actor:
        """A user who may read, or the bearer of the metrics token (a FastAPI dependency)."""
        if self._metrics_token is not None:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() == "bearer" and _equal(token.strip(), self._metrics_token):
                return Actor(None, Role.VIEWER, "token")
            if self.is_open:
                raise HTTPException(
                    401, detail="the metrics need their bearer token", headers={"WWW-Authenticate": "Bearer"}
                )
        return await self.identify(request)

    async def identify(self, request: Request) -> Actor:
        """The user of the request; answers 401 without a login, or 429 after too many wrong passwords."""
        if self._authenticator is None:
            return OPEN
        if (cookie := request.cookies.get(COOKIE)) and (actor := self._sessions.read(cookie)):
            return actor
        if credentials := _basic_credentials(request):
            username, password = credentials
            if role := await self.log_in(request, username, password):
                return Actor(username, role, "basic")
        raise HTTPException(401, detail="log in first", headers=_challenge(request))

    async def log_in(self, request: Request, username: str, password: str) -> Role | None:
        """The role for the credentials, else `None`; answers 429 after too many wrong passwords."""
        if self._authenticator is None:
            return Role.OPERATOR
        client = request.client.host if request.client else ""
        try:
            return await self._authenticator.role_of(username, password, client)
        except TooManyLoginsError as exc:
            raise HTTPException(
                429, detail=str(exc), headers={"Retry-After": str(math.ceil(exc.retry_after))}
            ) from None

    def check_intent(self, request: Request, actor: Actor) -> None:
        """Refuse a request that another site made the browser send (CSRF).

        A cookie session must send its token in `X-CSRF-Token`. For Basic credentials, which browsers repeat by
        themselves, and for open installations, the origin in the browser's headers must match. Other clients send none.
        """
        if actor.via == "session":
            if not _equal(request.headers.get("x-csrf-token", ""), actor.csrf or ""):
                raise HTTPException(403, detail="the X-CSRF-Token header is missing or does not belong to this session")
            return
        check_same_origin(request)


def check_same_origin(request: Request) -> None:
    """Refuse a request from another site, by the browser's headers (Fetch Metadata, RFC 6454 Origin)."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        if site not in {"same-origin", "none"}:
            raise HTTPException(403, detail="this request was made by a page of another site")
    elif origin is not None and stated_origin(request) not in own_origins(request):
        raise HTTPException(
            403,
            detail=f"this request was made by a page of another site, {origin[:100]!a}. If that is this site behind a "
            "proxy, let the proxy keep the header Host and send X-Forwarded-Proto",
        )


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode("utf-8", "replace"))


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
