"""The address under which a client reaches this server, as the request and the proxies before the server state it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

import idna
from fastapi import Request

_PORTS = {"http": 80, "https": 443}
_AUTHORITY = re.compile(r"[^\s/?#@\\\x00-\x1f\x7f]{1,300}")
_NAME = re.compile(r"[a-z0-9._-]+")
# One `name=value` of the header `Forwarded` (RFC 7239, section 4), and what ends it.
_PAIR = re.compile(r'[\s;]*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))\s*([;,]|$)')


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port (RFC 6454). The host is spelled as `parse_authority` does."""

    scheme: str
    host: str
    port: int


def parse_authority(text: str) -> tuple[str, int | None] | None:
    """Host and port of `host:port`, or `None` if the text is something else.

    Each host has one spelling: lower case, without the dot at its end, punycode, IP addresses in their shortest form.
    """
    if not _AUTHORITY.fullmatch(text):
        return None
    try:
        parts = urlsplit(f"//{text}")
        name, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    host = _one_spelling(name)
    return None if host is None else (host, port)


def parse_origin(text: str) -> Origin | None:
    """The value of a header `Origin`; `None` for `null`, for schemes that are not HTTP, and for other texts."""
    scheme, _, authority = text.partition("://")
    scheme = scheme.lower()
    parsed = parse_authority(authority)
    if parsed is None or scheme not in _PORTS:
        return None
    host, port = parsed
    return Origin(scheme, host, _PORTS[scheme] if port is None else port)


def is_ip(host: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


# Any client can send the headers of proxies, and nothing here says who sent them. They are used for three purposes,
# in which a forged one gains nothing. `Secure` on a cookie: the forger's own browser does not keep the cookie. The
# comparison of origins: a page of another site cannot make a browser send such a header without a preflight request.
# The check of the host: the header adds a name that is checked. Which proxies may state the client's address and scheme
# is a setting of the server (uvicorn's `--forwarded-allow-ips`), whose result is in the scope.
def client_scheme(request: Request) -> str:
    """`https` if the server received it so, or if the proxy next to the client (the first of a list) did."""
    proto = _forwarded(request).get("proto") or _first(request, "x-forwarded-proto")
    return "https" if "https" in (request.scope.get("scheme"), proto.lower()) else "http"


def named_hosts(request: Request) -> list[str]:
    """The texts by which the request names this server: its `Host`, and the one that the first proxy received."""
    named = [
        *map(_text, request.headers.getlist("host")),
        _first(request, "x-forwarded-host"),
        _forwarded(request).get("host", ""),
    ]
    return [text for text in named if text]


def own_origins(request: Request) -> set[Origin]:
    """The origins that the pages of this server have in the browser that sent this request."""
    scheme = client_scheme(request)
    ports = {_PORTS[scheme]}
    if (forwarded := _first(request, "x-forwarded-port")).isdecimal():
        ports.add(int(forwarded[:5]))
    parsed = filter(None, map(parse_authority, named_hosts(request)))
    return {Origin(scheme, host, one) for host, port in parsed for one in (ports if port is None else {port})}


def stated_origin(request: Request) -> Origin | None:
    """The origin of the page that sent the request, by its header `Origin`; `None` if that is no HTTP origin."""
    return parse_origin(_text(request.headers.get("origin", "")))


def _one_spelling(name: str) -> str | None:
    if is_ip(name):
        return str(ip_address(name))
    name = name.removesuffix(".")
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode()
        except idna.IDNAError:
            return None
    name = name.lower()
    return name if _NAME.fullmatch(name) else None


def _text(value: str) -> str:
    """A header's value, which arrives decoded as latin-1 whatever it is."""
    return value.encode("latin-1").decode("utf-8", "replace")


def _first(request: Request, header: str) -> str:
    return _text(",".join(request.headers.getlist(header)).partition(",")[0].strip())


def _forwarded(request: Request) -> dict[str, str]:
    """The first element of the header `Forwarded`: the one of the proxy next to the client."""
    text = _text(",".join(request.headers.getlist("forwarded")))
    found: dict[str, str] = {}
    position, end = 0, ";"
    while end == ";" and (pair := _PAIR.match(text, position)):
        name, quoted, plain, end = pair.groups()
        found[name.lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        position = pair.end()
    return found
