"""Signed sessions: a cookie that any worker with the same key can check, and its CSRF token."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.options import seconds
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.web.auth import Actor, Role
from taskflow_otel.web.settings import is_text

# Not by itsdangerous: every installation would need the package for twenty lines of code, and its tokens contain the
# time of signing, while these contain the time of expiry.
COOKIE = "taskflow_session"


class Sessions:
    """Issues and reads session tokens: base64url(JSON) "." base64url(HMAC-SHA256).

    `secret_key` (at least 16 characters) keeps sessions valid across workers and restarts; without it each process has
    its own key. `lifetime` is in seconds. Nothing is stored, so a token is valid until it expires or the key changes.
    """

    def __init__(self, secret_key: str | None, lifetime: float, *, clock: Clock = SYSTEM_CLOCK) -> None:
        if secret_key is not None and (not is_text(secret_key) or len(secret_key) < 16):
            raise ConfigurationError(
                "secret_key must be a text of at least 16 characters; make one with: "
                "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        self.lifetime = max(1, int(seconds("token_expiry", lifetime, exclusive=True)))
        master = secret_key.encode() if secret_key else secrets.token_bytes(32)
        # One key for each purpose, so that a token for one is never valid for the other.
        self._session_key = hmac.digest(master, b"taskflow-otel session v1", hashlib.sha256)
        self._csrf_key = hmac.digest(master, b"taskflow-otel csrf v1", hashlib.sha256)
        self._clock = clock

    def issue(self, username: str, role: Role) -> str:
        """A token for a user who has just logged in."""
        end = int(self._clock.now().timestamp()) + self.lifetime
        body = {"u": username, "r": role, "e": end, "n": secrets.token_hex(8)}
        payload = _encode(json.dumps(body).encode())
        return f"{payload}.{self._signature(payload)}"

    def read(self, token: str) -> Actor | None:
        """The user of the token; `None` if it is forged, damaged or expired."""
        payload, _, signature = token.partition(".")
        if not hmac.compare_digest(self._signature(payload).encode(), signature.encode("utf-8", "replace")):
            return None
        try:
            body = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        except (ValueError, binascii.Error):
            return None
        if body["e"] <= self._clock.now().timestamp():
            return None
        return Actor(body["u"], Role(body["r"]), "session", expires_at=body["e"], csrf=self._csrf(token))

    def _signature(self, payload: str) -> str:
        return _encode(hmac.digest(self._session_key, payload.encode("utf-8", "replace"), hashlib.sha256))

    def _csrf(self, token: str) -> str:
        return hmac.new(self._csrf_key, token.encode(), hashlib.sha256).hexdigest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
