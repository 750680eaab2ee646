"""Users of a closed administration, and how they log in."""

from __future__ import annotations

PROBES = {"/tasks/livez", "/tasks/readyz"}
"""What needs no login."""

USER = ("ada", "correct horse")


FORM = {"username": USER[0], "password": USER[1]}


class Directory:
    """A backend with both roles."""

    async def authenticate(self, username: str, password: str) -> str | None:
        return {"ada": "operator", "vic": "viewer"}.get(username) if password == "right" else None
