"""Signed sessions: a cookie that any worker with the same key can check, and its CSRF proof."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import secrets
from dataclasses import dataclass
from typing import Any

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.options import seconds
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.web.auth import Role
from taskflow_otel.web.settings import is_text

_log = logging.getLogger("taskflow_otel")

# Not by itsdangerous: every installation would need the package for twenty lines of code, and its tokens contain the
# time of signing, while these contain the time of expiry.
COOKIE = "taskflow_session"


@dataclass(frozen=True, slots=True)
class Session:
    """What a token says. `stamp`: a keyed digest of the user's credential. `generation`: the user's sessions end
    together when it changes. `expires_at`: seconds since the epoch."""

    username: str
    role: Role
    session_id: str
    stamp: str
    generation: str
    expires_at: float
    csrf: str


class Sessions:
    """Issues and reads session tokens: base64url(JSON) "." base64url(HMAC-SHA256).

    `secret_key` (at least 16 characters) keeps sessions valid across workers and restarts; without it each process has
    its own key. `lifetime` is in seconds. `audience` names the administration: a token of another one is refused, even
    with the same `secret_key`. `place`, in the methods, is the prefix under which the application was reached.
    """

    def __init__(
        self, secret_key: str | None, lifetime: float, *, audience: str = "", clock: Clock = SYSTEM_CLOCK
    ) -> None:
        if secret_key is not None and (not is_text(secret_key) or len(secret_key) < 16):
            raise ConfigurationError(
                "secret_key must be a text of at least 16 characters; make one with: "
                "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        self.lifetime: int = max(1, int(seconds("token_expiry", lifetime, exclusive=True)))
        self.audience = audience
        self.key_is_shared: bool = secret_key is not None
        """Whether other workers can have the same key."""
        self._warned = False
        master = secret_key.encode() if secret_key else secrets.token_bytes(32)
        # One key for each purpose, so that a token for one is never valid for the other.
        self._session_key = _derive(master, "session v2", audience)
        self._csrf_key = _derive(master, "csrf v2", audience)
        self._stamp_key = _derive(master, "credential v2", audience)
        self._clock = clock

    def issue(
        self, username: str, role: Role, *, credential: str, generation: str, place: str = ""
    ) -> tuple[str, Session]:
        """A token for a user who has just logged in, and what it says."""
        body: dict[str, Any] = {
            "u": username,
            "r": role,
            "e": int(self._clock.now().timestamp()) + self.lifetime,
            "s": secrets.token_hex(16),
            "c": self._stamp(username, credential),
            "g": generation,
        }
        payload = _encode(json.dumps(body).encode())
        token = f"{payload}.{self._signature(payload, place)}"
        return token, self._session(body, token)

    def read(self, token: str, place: str = "") -> Session | None:
        """What the token says; `None` if it is forged, damaged, expired, or of another administration."""
        body = _decode(token.partition(".")[0])
        if not self._is_signed(token, place):
            if body is not None:
                self.warn_of_key("a session that this process has not signed was presented")
            return None
        if body is None or body["e"] <= self._clock.now().timestamp():
            return None
        return self._session(body, token)

    def claim_of(self, token: str, place: str = "") -> tuple[str, bool]:
        """The user whom a token names, which anyone can write, and whether it was signed here."""
        body = _decode(token.partition(".")[0])
        name = "" if body is None else body["u"]
        return name if isinstance(name, str) else "", self._is_signed(token, place)

    def is_stamp(self, stamp: str, username: str, credential: str) -> bool:
        """Whether a session was begun with this credential of the user."""
        return hmac.compare_digest(stamp, self._stamp(username, credential))

    def proof_for(self, username: str) -> str:
        """The CSRF proof of a user who is signed in by the application."""
        return self._digest(self._csrf_key, f"app:{username}")

    def warn_of_key(self, sign: str) -> None:
        """Warn once, without a `secret_key`, that other workers may serve the same users."""
        if self.key_is_shared or self._warned:
            return
        self._warned = True
        _log.warning(
            "TaskAdmin(%r) has no secret_key, and %s. Without one, a session is valid only in the process that made "
            "it: with several workers, people are asked to log in again and again. Give all of them the same "
            "TaskAdmin(secret_key=...).",
            self.audience,
            sign,
        )

    def _session(self, body: dict[str, Any], token: str) -> Session:
        return Session(
            username=body["u"],
            role=Role(body["r"]),
            session_id=body["s"],
            stamp=body["c"],
            generation=body["g"],
            expires_at=body["e"],
            csrf=self._digest(self._csrf_key, token),
        )

    def _is_signed(self, token: str, place: str) -> bool:
        payload, _, signature = token.partition(".")
        return hmac.compare_digest(self._signature(payload, place).encode(), signature.encode("utf-8", "replace"))

    def _signature(self, payload: str, place: str) -> str:
        key = _derive(self._session_key, "place", place)
        return _encode(hmac.digest(key, payload.encode("utf-8", "replace"), hashlib.sha256))

    def _stamp(self, username: str, credential: str) -> str:
        # Keyed, because the holder of a token can read it.
        return self._digest(self._stamp_key, f"{len(username)}:{username}:{credential}")

    def _digest(self, key: bytes, text: str) -> str:
        return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _derive(key: bytes, purpose: str, name: str) -> bytes:
    return hmac.digest(key, f"taskflow-otel {purpose}\n{name}".encode("utf-8", "surrogatepass"), hashlib.sha256)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(payload: str) -> dict[str, Any] | None:
    """The fields of a token, which may be anyone's; `None` if it is not one."""
    try:
        body = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None
    return body if isinstance(body, dict) and body.keys() == {"u", "r", "e", "s", "c", "g"} else None
