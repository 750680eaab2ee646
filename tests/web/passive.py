"""What a passive scan looks for in an answer: the rules of ZAP (https://www.zaproxy.org/docs/alerts) that apply here.

Left out: 10202 (a form without a token: the login compares the browser's origin instead), 10096 (a number that looks
like a time: metrics consist of such numbers), 10035 (Strict-Transport-Security is up to the owner of the domain), and
rules about technologies that are not used.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx

_REVEALING = re.compile(r"Traceback \(most recent|File \"|site-packages|sqlalchemy|psycopg|aiosqlite|\bline \d+, in\b")
_PRIVATE_ADDRESS = re.compile(r"\b(?:10\.\d+|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d+\.\d+\b")
_DIRECTIVES = {"default-src", "form-action", "base-uri", "frame-ancestors"}
"""The ones without which a policy is open: the last three do not fall back to the first."""


def _directives(answer: httpx.Response) -> dict[str, list[str]]:
    parts = answer.headers.get("Content-Security-Policy", "").split(";")
    return {words[0]: words[1:] for part in parts if (words := part.split())}


def _is_static(answer: httpx.Response) -> bool:
    return "/static/" in answer.request.url.path and answer.status_code in {200, 304}


def _type_of(answer: httpx.Response) -> str:
    return str(answer.headers.get("Content-Type", ""))


def _caching(answer: httpx.Response) -> bool:
    # A file of the page is the same for everyone: it may be kept, and is asked for again.
    if _is_static(answer):
        return answer.headers["Cache-Control"] == "no-cache" and "ETag" in answer.headers
    return bool(answer.headers.get("Cache-Control") == "no-store")


def _typed(answer: httpx.Response) -> bool:
    kind = _type_of(answer)
    return not answer.content or ("/" in kind and ("charset=" in kind or not kind.startswith("text/")))


def _policy(answer: httpx.Response) -> bool:
    found = _directives(answer)
    values = {value for values in found.values() for value in values}
    return found.keys() >= _DIRECTIVES and found["default-src"] == ["'none'"] and values <= {"'none'", "'self'"}


def _framing(answer: httpx.Response) -> bool:
    return answer.headers.get("X-Frame-Options") == "DENY" and _directives(answer).get("frame-ancestors") == ["'none'"]


def _cookies(answer: httpx.Response) -> bool:
    for cookie in answer.headers.get_list("Set-Cookie"):
        attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
        needed = {"httponly", "samesite=lax"} | ({"secure"} if answer.request.url.scheme == "https" else set())
        if not attributes >= needed or any(attribute.startswith("domain") for attribute in attributes):
            return False
    return True


def _page(answer: httpx.Response) -> bool:
    return not _type_of(answer).startswith("text/html") or not re.search(
        r"<script(?![^>]*\ssrc=\"static/)|<style|\son\w+=|\sstyle=|https?://|<!--", answer.text
    )


def _redirect(answer: httpx.Response) -> bool:
    return not answer.is_redirect or (not re.match(r"[a-z]*:|/|\\", answer.headers["Location"]) and not answer.content)


RULES: dict[str, Callable[[httpx.Response], bool]] = {
    "2: no private address": lambda answer: not _PRIVATE_ADDRESS.search(answer.text),
    "10010, 10011, 10054: cookies": _cookies,
    "10015, 10049: nothing is kept": _caching,
    "10017, 10027, 90003: no foreign or inline script, no comment": _page,
    "10019: a type and its charset": _typed,
    "10020: not in a frame": _framing,
    "10021: no guessed type": lambda answer: answer.headers.get("X-Content-Type-Options") == "nosniff",
    "10023, 90022: no inside of an error": lambda answer: not _REVEALING.search(answer.text),
    "10028, 10044: a redirect leads nowhere else": _redirect,
    "10036, 10037: no version": lambda answer: not answer.headers.keys() & {"x-powered-by", "x-runtime"},
    "10038, 10055: a policy without holes": _policy,
    "10063: no device": lambda answer: "camera=()" in answer.headers.get("Permissions-Policy", ""),
    "10098: no other site reads it": lambda answer: "Access-Control-Allow-Origin" not in answer.headers,
    "90004: a process of its own": lambda answer: (
        answer.headers.get("Cross-Origin-Resource-Policy") == "same-origin"
        and answer.headers.get("Cross-Origin-Opener-Policy") == "same-origin"
        and answer.headers.get("Cross-Origin-Embedder-Policy") == "require-corp"
    ),
    "no address leaves with a click": lambda answer: answer.headers.get("Referrer-Policy") == "same-origin",
}


def alerts(answer: httpx.Response) -> list[str]:
    """The rules that an answer breaks."""
    return [name for name, holds in RULES.items() if not holds(answer)]
