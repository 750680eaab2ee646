"""The live page and its login: static files, served with a strict Content-Security-Policy."""

from __future__ import annotations

import hashlib
import html
import unicodedata
from importlib.resources import files
from string import Template
from urllib.parse import parse_qsl, urlencode

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from taskflow_otel.runtime.clock import SYSTEM_CLOCK
from taskflow_otel.web.addresses import client_scheme
from taskflow_otel.web.audit import AuditLog
from taskflow_otel.web.auth import Actor
from taskflow_otel.web.guard import Guard, check_same_origin
from taskflow_otel.web.headers import PAGE_HEADERS
from taskflow_otel.web.sessions import COOKIE
from taskflow_otel.web.settings import WebSettings
from taskflow_otel.wire.bodies import SessionOut

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_LOGIN_BODY_LIMIT = 8_192
_BADGE = (
    '<circle cx="22" cy="10" r="10" fill="#d92d20"/><text x="22" y="15" font-family="sans-serif" font-size="14" '
    'font-weight="700" fill="#fff" text-anchor="middle">{}</text></svg>'
)
_MOST_PROBLEMS = 10
"""The number of the last icon, which stands for more."""
_UNSEEN = {"Cc", "Cf"}
"""Unicode's categories of controls and of format characters. A title is one line."""


# Not Starlette's StaticFiles: it reads the disk for each request, and it is a mount, which `include_router` of the
# oldest supported FastAPI does not copy.
class Assets:
    """The static files, read once, served from memory with an `ETag`."""

    def __init__(self) -> None:
        folder = files("taskflow_otel.web").joinpath("static")
        self._bodies = {
            entry.name: entry.read_bytes()
            for entry in folder.iterdir()
            if f".{entry.name.rpartition('.')[2]}" in _TYPES
        }

        icon = self.text("icon.svg").strip().removesuffix("</svg>")
        for number in range(1, _MOST_PROBLEMS + 1):
            text = str(number) if number < _MOST_PROBLEMS else f"{number - 1}+"
            self._bodies[f"icon-{number}.svg"] = f"{icon}{_BADGE.format(text)}".encode()

    def text(self, name: str) -> str:
        """The text of one of the files."""
        return self._bodies[name].decode()

    def answer(self, request: Request, name: str) -> Response:
        """One file; 304 if the client has it, 404 if it does not exist."""
        if name not in self._bodies or name.endswith(".html"):
            raise HTTPException(404, detail=f"there is no file {name!r}")
        body = self._bodies[name]
        etag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
        headers = {**PAGE_HEADERS, "ETag": etag, "Cache-Control": "no-cache"}
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=_TYPES[name[name.rindex(".") :]])


def add_page_routes(router: APIRouter, settings: WebSettings, guard: Guard, audit: AuditLog) -> None:
    """The page, its files, login and logout."""
    assets = Assets()
    viewer = Depends(guard.viewer)

    def page(name: str, status: int = 200, **values: str) -> Response:
        shown = {key: html.escape(visible(value)) for key, value in values.items()}
        text = Template(assets.text(name)).substitute(shown)
        headers = {**PAGE_HEADERS, "Cache-Control": "no-store", "Content-Type": _TYPES[".html"]}
        return Response(text, status, headers)

    def login_page(request: Request, message: str = "", status: int = 200) -> Response:
        return page(
            "login.html", status, title=settings.title, message=message, query=urlencode({"next": _kept(request)})
        )

    @router.get("/dashboard", include_in_schema=False)
    async def dashboard(request: Request) -> Response:
        try:
            await guard.identify(request)
        except HTTPException as exc:
            # The application leads to its own login, or answers as it likes.
            if exc.status_code != 401 or not guard.has_form:
                raise
            # Relative, like every address here, so that it works behind a proxy that removes a prefix.
            return RedirectResponse(f"login?{urlencode({'next': request.url.query})}", 303)
        return page("index.html", title=settings.title)

    @router.get("/dashboard/", include_in_schema=False)
    async def dashboard_with_slash(request: Request) -> Response:
        """What people type. The page's own addresses are relative, so it is served at one address alone."""
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"../dashboard{query}", 308)

    @router.get("/static/{name}", include_in_schema=False)
    async def static(request: Request, name: str) -> Response:
        """Open to everyone, because the login form needs the files, and every wheel has the same ones."""
        return assets.answer(request, name)

    @router.get("/session", summary="The current user")
    async def get_session(actor: Actor = viewer) -> SessionOut:
        """The current user, and the settings of the page."""
        return SessionOut(
            title=settings.title,
            actor=actor.name,
            role=actor.role,
            csrf_token=actor.csrf,
            can_log_out=actor.via == "session",
            can_act=guard.may_act(actor),
            trace_url=settings.trace_url,
            log_url=settings.log_url,
            poll_interval=settings.poll_interval,
            now=SYSTEM_CLOCK.now(),
        )

    @router.get("/login", include_in_schema=False)
    async def login_form(request: Request) -> Response:
        return login_page(request) if guard.has_form else RedirectResponse(f"dashboard{_view(request)}", 303)

    @router.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        if not guard.has_form:
            return RedirectResponse(f"dashboard{_view(request)}", 303)
        check_same_origin(request)
        form = dict(parse_qsl((await _small_body(request)).decode("utf-8", "replace")))
        username = form.get("username", "")
        try:
            begun = await guard.log_in(request, username, form.get("password", ""))
        except HTTPException as exc:
            response = login_page(request, str(exc.detail), exc.status_code)
            response.headers.update(exc.headers or {})
            return response
        if begun is None:
            return login_page(request, "The user name or the password is wrong.", 401)
        audit.record(request, begun.actor, "login", username, status=303)
        answer = RedirectResponse(f"dashboard{_view(request)}", 303)
        answer.set_cookie(
            COOKIE,
            begun.token,
            max_age=guard.session_lifetime,
            path=None,  # the browser's default is the folder of the address, which is right behind any proxy
            secure=client_scheme(request) == "https",
            httponly=True,
            samesite="lax",
        )
        return answer

    @router.post("/logout", include_in_schema=False)
    async def logout(request: Request, actor: Actor = viewer, everywhere: bool = False) -> Response:
        guard.check_intent(request, actor)
        await guard.log_out(actor, everywhere=everywhere)
        audit.record(
            request, actor, "logout", actor.name or "", status=204, detail="everywhere" if everywhere else None
        )
        answer = Response(status_code=204)
        secure = client_scheme(request) == "https"
        answer.set_cookie(COOKIE, "", max_age=0, path=None, secure=secure, httponly=True, samesite="lax")
        return answer


def visible(text: str) -> str:
    """The text with a name in place of each character that cannot be seen or turns the writing direction."""
    return "".join(
        f"\\u{ord(character):04x}" if unicodedata.category(character) in _UNSEEN else character for character in text
    )


def _view(request: Request) -> str:
    return f"?{kept}" if (kept := _kept(request)) else ""


def _kept(request: Request) -> str:
    # Rebuilt from its parts, so that it can only be a view of this page and never another address.
    return urlencode(parse_qsl(request.query_params.get("next", "")))


async def _small_body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LOGIN_BODY_LIMIT:
            raise HTTPException(413, detail="a login form is smaller than that")
    return body
