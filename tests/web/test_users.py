"""The users that `TaskAdmin(auth=...)` names."""

from __future__ import annotations

from typing import Any

import argon2
import httpx
import pytest

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.web.auth import Role, User
from taskflow_otel.web.users import NamedUsers, named_user
from tests.web.conftest import ClientOf
from tests.web.users import QUICK, USER, Directory

HASH = QUICK.hash("correct horse")


@pytest.mark.parametrize(
    ("auth", "credentials", "code"),
    [
        (USER, USER, 200),
        (USER, ("ada", "wrong"), 401),
        (USER, ("eve", "correct horse"), 401),
        (USER, ("ada", ""), 401),
        ([("a", "1"), ("ü", "ß:ß")], ("ü", "ß:ß"), 200),
        ([("a", "1"), ("b", "2")], ("a", "2"), 401),
        (("ada", HASH), USER, 200),
        (("ada", HASH), ("ada", HASH), 401),
        (("ada", HASH), ("eve", "correct horse"), 401),
        ([("a", "1"), ("ada", HASH)], ("a", "correct horse"), 401),
        ([("a", "1"), ("ada", HASH)], ("a", "1"), 200),
        (("ü", QUICK.hash("ß:ß")), ("ü", "ß:ß"), 200),
        (Directory(), ("vic", "right"), 200),
        (Directory(), ("vic", "wrong"), 401),
    ],
)
async def test_basic_credentials_are_checked(
    client_of: ClientOf, auth: Any, credentials: tuple[str, str], code: int
) -> None:
    basic = httpx.BasicAuth(*(part.encode() for part in credentials))
    assert (await client_of(auth=auth).get("/tasks", auth=basic)).status_code == code


async def test_a_user_is_an_operator_unless_the_entry_names_another_role(client_of: ClientOf) -> None:
    client = client_of(auth=[("ada", HASH), ("vic", HASH, "viewer"), ("ann", "plain", "viewer"), ("bob", "plain")])
    acts = {}
    for name, password in (("ada", USER[1]), ("vic", USER[1]), ("ann", "plain"), ("bob", "plain")):
        acts[name] = (await client.get("/tasks/session", auth=(name, password))).json()["can_act"]
    assert acts == {"ada": True, "vic": False, "ann": False, "bob": True}


@pytest.mark.parametrize(
    ("username", "password"),
    [("ada", USER[1]), ("ada", "wrong"), ("bob", "plain"), ("bob", "wrong"), ("nobody", "x"), ("", "")],
)
async def test_each_login_costs_one_hash_whether_the_user_exists_or_not(
    monkeypatch: pytest.MonkeyPatch, username: str, password: str
) -> None:
    costs: list[argon2.Parameters] = []
    verify = argon2.PasswordHasher.verify

    def counted(hasher: argon2.PasswordHasher, encoded: str, given: bytes) -> bool:
        costs.append(argon2.extract_parameters(encoded))
        return verify(hasher, encoded, given)

    users = NamedUsers([named_user(("ada", HASH)), named_user(("bob", "plain"))])
    monkeypatch.setattr(argon2.PasswordHasher, "verify", counted)
    assert await users.authenticate(username, password) == (
        Role.OPERATOR if (username, password) in {USER, ("bob", "plain")} else None
    )
    assert costs == [argon2.extract_parameters(HASH)]


def test_the_credential_of_a_user_changes_with_the_password_and_is_not_the_password() -> None:
    found = [
        NamedUsers([named_user(("ada", password))]).find("ada") for password in ("one", "two", HASH, QUICK.hash("one"))
    ]
    credentials = {user.credential for user in found if user is not None}
    assert len(credentials) == 4
    assert not credentials & {"one", "two"}
    assert NamedUsers([named_user(USER)]).find("eve") is None
    assert isinstance(found[0], User)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (("ada", "secret", "admin"), "'viewer' or 'operator'"),
        (("ada", "$2b$12$abcdefghijklmnopqrstuv$x"), "argon2 hash"),
        (("ada", "$argon2id$v=19$m=8,t=1,p=1$broken$"), "not a whole one"),
        (("ada", ""), "not empty"),
        (("a:b", "hunter2"), "colon"),
    ],
)
def test_an_entry_that_cannot_work_is_refused_without_its_password(entry: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        NamedUsers([named_user(entry)])
    assert not entry[1] or entry[1] not in str(caught.value)
