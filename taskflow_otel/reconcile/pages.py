"""Metrics pages, read from a file or by HTTP."""

from __future__ import annotations

import base64
import http.client
import urllib.error
import urllib.request
from http.client import HTTPMessage
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.runtime.passwords import without_passwords

_TIMEOUT = 30.0


def read_page(where: str, token: str | None) -> str:
    """The text of a page at an address or path, with a bearer token.

    Raises `ConfigurationError` if it cannot be read, and for a redirect: the token is for this address alone.
    """
    try:
        if "://" not in where:
            return Path(where).read_text(encoding="utf-8")
        with _opener().open(_request(where, token), timeout=_TIMEOUT) as answer:
            return str(answer.read().decode("utf-8"))
    except ConfigurationError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as exc:
        if isinstance(exc, urllib.error.HTTPError):
            exc.close()
        # Not chained: the original can contain the password.
        why = without_passwords(str(exc)) or type(exc).__name__
        raise ConfigurationError(f"the metrics page {without_passwords(where)} cannot be read: {why}") from None


def _request(where: str, token: str | None) -> urllib.request.Request:
    parts = urlsplit(where)
    if parts.scheme not in {"http", "https"}:
        raise ConfigurationError(f"the metrics page {without_passwords(where)} must be a file or an http(s) address")
    try:
        _ = parts.port
    except ValueError:
        # The message would show it, and it can be a part of a password.
        raise ConfigurationError(
            f"the metrics page {without_passwords(where)} has a port that is not a number; "
            "in a password, write %2F for /"
        ) from None
    headers = {"Accept": "text/plain"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    elif parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    return urllib.request.Request(bare.geturl(), headers=headers)


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    # Those of `build_opener`, without the ones for files and FTP.
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _NoRedirect(),
    ):
        opener.add_handler(handler)
    return opener


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    # The standard handler sends the token to the address that an answer names.
    def http_error_302(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: HTTPMessage
    ) -> NoReturn:
        fp.close()
        target = without_passwords(headers.get("Location", "nowhere"))
        raise ConfigurationError(
            f"the metrics page {req.full_url} redirects to {target}; give that address if it is right"
        )

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302
