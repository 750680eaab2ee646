"""Arguments as ciphertext: outside the running attempt, a payload is unreadable without the key."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from taskflow_otel.errors import ConfigurationError, MissingExtraError, TaskArgumentError

ENCRYPTED_PREFIX = "fernet1:"
"""Marks a payload as ciphertext, and names its format. A plain payload is JSON and starts with a brace."""
_FINGERPRINT = 16
SEAL_PATTERN = f"{ENCRYPTED_PREFIX}{'_' * _FINGERPRINT}:%"
"""The pattern of payloads that name their key, for SQL's `LIKE`."""
_SEAL = re.compile(f"{ENCRYPTED_PREFIX}[0-9a-f]{{{_FINGERPRINT}}}(?=:)")

_MAKE_A_KEY = 'python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'


def is_encrypted(payload: str) -> bool:
    """Whether a stored payload is ciphertext."""
    return payload.startswith(ENCRYPTED_PREFIX)


def seal_of(payload: str | None) -> str | None:
    """The beginning of a ciphertext, which identifies its key; `None` for all other payloads."""
    found = None if payload is None else _SEAL.match(payload)
    return None if found is None else found[0]


class PayloadCipher:
    """Encrypts payloads with the first key and decrypts them with any (Fernet: AES-128-CBC with HMAC-SHA256).

    `keys` is one Fernet key or several. To rotate, put the new key first, and keep the old ones as long as tasks that
    they encrypted are stored. Raises `ConfigurationError` for an invalid key, and `MissingExtraError` without the
    `encryption` extra. Source: the Fernet specification (github.com/fernet/spec).

    A ciphertext begins with the fingerprint of its key, so that a process can see whether it has the key.
    """

    __slots__ = ("_fernet", "_seal", "seals")

    def __init__(self, keys: str | bytes | Sequence[str | bytes]) -> None:
        try:
            from cryptography.fernet import Fernet, MultiFernet
        except ImportError as exc:
            raise MissingExtraError("encrypt_args_key", "encryption") from exc
        several = [keys] if isinstance(keys, (str, bytes)) else list(keys)
        if not several:
            raise ConfigurationError(f"encrypt_args_key needs at least one Fernet key. Make one with: {_MAKE_A_KEY}")
        fernets = []
        for position, key in enumerate(several, start=1):
            try:
                fernets.append(Fernet(key))
            except (ValueError, TypeError):
                # Without the exception, which holds the key: this text goes into logs.
                raise ConfigurationError(
                    f"encrypt_args_key: key {position} of {len(several)} is not a Fernet key (32 bytes in URL-safe "
                    f"base64, 44 characters). Make one with: {_MAKE_A_KEY}"
                ) from None
        self._fernet = MultiFernet(fernets)
        marks = [_seal(key) for key in several]
        self._seal = marks[0]
        self.seals: frozenset[str] = frozenset(marks)
        """The seals of what these keys can decrypt; see `seal_of`."""

    def encrypt(self, payload: str) -> str:
        """Return the payload as marked ciphertext."""
        return f"{self._seal}:{self._fernet.encrypt(payload.encode()).decode('ascii')}"

    def decrypt(self, payload: str) -> str:
        """Return the plain payload; a payload that was stored without encryption is returned unchanged.

        Raises `TaskArgumentError` if no key fits, or the ciphertext is damaged.
        """
        if not is_encrypted(payload):
            return payload
        from cryptography.fernet import InvalidToken

        seal = seal_of(payload)
        # The first versions did not name the key.
        mark = ENCRYPTED_PREFIX if seal is None else f"{seal}:"

        try:
            return self._fernet.decrypt(payload.removeprefix(mark)).decode()
        except (InvalidToken, ValueError):  # `ValueError` for text that is not ASCII
            raise TaskArgumentError(
                "the stored arguments cannot be decrypted: none of the keys in TaskManager(encrypt_args_key=...) fits, "
                "or the ciphertext is damaged. After a rotation, keep the old key after the new one."
            ) from None


def _seal(key: str | bytes) -> str:
    digest = hashlib.sha256(b"taskflow-otel:" + (key.encode() if isinstance(key, str) else key))
    return ENCRYPTED_PREFIX + digest.hexdigest()[:_FINGERPRINT]
