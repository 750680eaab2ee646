"""The names under which the administration answers: protection against DNS rebinding."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fastapi import HTTPException, Request

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.web.addresses import is_ip, named_hosts, parse_authority

_UNOWNED = (".localhost", ".internal")
"""Domains that the public DNS never has (RFC 6761, section 6.3; ICANN resolution 2024.07.29.06)."""
_EVERY = "*"
_PATTERN = re.compile(r"(\*\.)?(?P<name>[^*]+)")


class Hosts:
    """Refuses requests under a name that someone outside may own.

    A page of such a name can let the name point to this server, and its scripts then read and do here what the
    browser's user could: to the browser both are one site. Where a login is needed the page has no session, so without
    `allowed` only an open administration checks. IP addresses, names without a dot, `localhost` and what ends with
    `.localhost` or `.internal` are always answered, because the public DNS gives them to nobody.
    """

    def __init__(self, allowed: Sequence[str] | None, *, is_open: bool) -> None:
        given = _texts(allowed)
        patterns = [_checked(one) for one in given if one != _EVERY]
        self._names = {name for name, below in patterns if not below}
        self._below = tuple(f".{name}" for name, below in patterns if below)
        self._every = _EVERY in given or (allowed is None and not is_open)
        self._is_open = is_open

    async def check(self, request: Request) -> None:
        """Answer 421 to a request under a name that is not allowed (a FastAPI dependency)."""
        if self._every:
            return
        for text in named_hosts(request):
            parsed = parse_authority(text)
            if parsed is None or not self.allows(parsed[0]):
                raise HTTPException(421, detail=self._refusal(text if parsed is None else parsed[0]))

    def allows(self, host: str) -> bool:
        """Whether requests under this name are answered."""
        return (
            "." not in host
            or is_ip(host)
            or host in self._names
            or host.endswith(_UNOWNED)
            or host.endswith(self._below)
        )

    def _refusal(self, host: str) -> str:
        allow = f"Allow the name with TaskAdmin(allowed_hosts=[{host[:100]!a}])"
        if not self._is_open:
            return f"this administration does not answer under the name {host[:100]!a}. {allow}."
        return (
            f"this administration is open to everyone, so it does not answer under the name {host[:100]!a}, which "
            f"someone outside may own. {allow}, or close the administration with TaskAdmin(auth=...)."
        )


def _texts(allowed: object) -> list[str]:
    match allowed:
        case None:
            return []
        case [*names] if all(isinstance(name, str) for name in names):
            return [str(name) for name in names]
        case _:
            raise ConfigurationError(
                f"allowed_hosts must be a list of names, such as ['tasks.example.com'], not {allowed!r}"
            )


def _checked(pattern: str) -> tuple[str, bool]:
    """The name of a pattern in its one spelling, and whether it means the names below it."""
    found = _PATTERN.fullmatch(pattern.strip())
    parsed = parse_authority(found["name"]) if found else None
    # An IPv6 address may be written without its brackets.
    if found and parsed is None and is_ip(found["name"]):
        parsed = parse_authority(f"[{found['name']}]")
    if found is None or parsed is None or parsed[1] is not None or found["name"].startswith("."):
        raise ConfigurationError(
            f"allowed_hosts takes names without scheme and port: 'tasks.example.com', '*.example.com' for all names "
            f"below one, or '*' for every name; {pattern!r} is not one"
        )
    return parsed[0], found[1] is not None
