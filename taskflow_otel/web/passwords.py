"""Hashes of passwords: argon2 (RFC 9106), checked beside the event loop."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Collection

from taskflow_otel.errors import ConfigurationError, MissingExtraError

_PHC = re.compile(r"\$([a-z0-9-]+)\$.*\$", re.DOTALL)
_AT_ONCE = 2
"""Checks at once. Each takes as much memory and time as its hash says: usually 64 MiB and 50 ms."""


def is_hash(text: str) -> bool:
    """Whether a text is an argon2 hash; raises `ConfigurationError` for a hash of another kind."""
    kind = _PHC.match(text)
    if kind is None:
        return False
    if not kind[1].startswith("argon2"):
        raise ConfigurationError(
            f"a password looks like a hash of the kind {kind[1]!r}; give its argon2 hash, made with: "
            "python -c 'import argon2, getpass; print(argon2.PasswordHasher().hash(getpass.getpass()))'"
        )
    return True


class PasswordHashes:
    """Compares passwords with hashes.

    Raises `MissingExtraError` without the package, and `ConfigurationError` for a hash that cannot be read.
    """

    def __init__(self, hashes: Collection[str]) -> None:
        try:
            import argon2
        except ImportError:
            raise MissingExtraError("a password that is given as a hash", "passwords") from None
        self._hasher, self._refused = argon2.PasswordHasher(), argon2.exceptions.VerificationError
        self._damaged = argon2.exceptions.InvalidHashError
        for encoded in hashes:
            try:
                self._hasher.verify(encoded, secrets.token_hex())
            except argon2.exceptions.VerifyMismatchError:
                continue
            except (self._refused, self._damaged):
                # The value is a secret, so the message does not contain it.
                raise ConfigurationError("a password begins like an argon2 hash, but is not a whole one") from None
        # An unknown user costs as much as a known one.
        costs = [argon2.extract_parameters(encoded) for encoded in hashes]
        dearest = max(costs, key=lambda cost: cost.memory_cost * cost.time_cost)
        self._nobody = argon2.PasswordHasher.from_parameters(dearest).hash(secrets.token_hex())
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def matches(self, encoded: str | None, password: str) -> bool:
        """Whether this is the password of the hash. Without a hash the answer is no, for the same work."""
        async with self._free:
            right = await asyncio.to_thread(self._matches, encoded or self._nobody, password)
        return right and encoded is not None

    def _matches(self, encoded: str, password: str) -> bool:
        try:
            return self._hasher.verify(encoded, password.encode("utf-8", "surrogatepass"))
        except (self._refused, self._damaged):
            return False
