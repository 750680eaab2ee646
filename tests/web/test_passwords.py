"""Hashes of passwords."""

from __future__ import annotations

import sys
import threading

import argon2
import pytest

from taskflow_otel.errors import ConfigurationError, MissingExtraError
from taskflow_otel.web.passwords import PasswordHashes, is_hash
from tests.web.users import QUICK


@pytest.mark.parametrize("password", ["right", "", "ß 日本", "x" * 10_000, "\ud800", "$argon2id$v=19$"])
async def test_a_password_matches_its_own_hash_alone(password: str) -> None:
    encoded = QUICK.hash(password.encode("utf-8", "surrogatepass"))
    assert is_hash(encoded)
    hashes = PasswordHashes([encoded])
    assert await hashes.matches(encoded, password)
    assert not await hashes.matches(encoded, password + " ")
    assert not await hashes.matches(None, password)


async def test_a_hash_is_computed_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def noting(hasher: argon2.PasswordHasher, encoded: str, given: bytes) -> bool:
        threads.append(threading.get_ident())
        return True

    encoded = QUICK.hash("right")
    hashes = PasswordHashes([encoded])
    monkeypatch.setattr(argon2.PasswordHasher, "verify", noting)
    assert await hashes.matches(encoded, "right")
    assert threads
    assert threading.get_ident() not in threads


async def test_an_unknown_user_costs_as_much_as_the_dearest_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    dear = argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    costs: list[argon2.Parameters] = []

    def noting(hasher: argon2.PasswordHasher, encoded: str, given: bytes) -> bool:
        costs.append(argon2.extract_parameters(encoded))
        return False

    hashes = PasswordHashes([QUICK.hash("a"), dear.hash("b")])
    monkeypatch.setattr(argon2.PasswordHasher, "verify", noting)
    assert not await hashes.matches(None, "a")
    assert [(cost.time_cost, cost.memory_cost) for cost in costs] == [(2, 16)]


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "argon2", None)
    with pytest.raises(MissingExtraError, match=r"taskflow-otel\[passwords\]"):
        PasswordHashes(["$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA"])


@pytest.mark.parametrize("text", ["password", "$", "$5.00", "argon2id$", "", "$dollar"])
def test_a_password_may_look_a_little_like_a_hash(text: str) -> None:
    assert not is_hash(text)


@pytest.mark.parametrize("text", ["$2b$12$abc$", "$scrypt$ln=16$abc$def", "$pbkdf2-sha256$29000$abc$def"])
def test_a_hash_of_another_kind_is_no_password(text: str) -> None:
    with pytest.raises(ConfigurationError, match="argon2"):
        is_hash(text)
