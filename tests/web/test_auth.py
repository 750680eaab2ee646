"""Roles, scopes and actors: plain data, and what a function of the application may return."""

from __future__ import annotations

import pytest

from taskflow_otel.web.auth import Actor, AuthBackend, Role, Scope, TaskAuthBackend, UserDirectory, checked_role


@pytest.mark.parametrize("answer", [True, "admin", "", 1, object()])
def test_a_role_that_does_not_exist_is_an_error_and_no_access(answer: object) -> None:
    with pytest.raises(TypeError, match=r"find\(\) must return 'viewer', 'operator' or None"):
        checked_role(answer, "find()")


def test_only_an_api_token_has_limited_scopes() -> None:
    person = Actor("ada", Role.OPERATOR, "session")
    script = Actor("ci", Role.OPERATOR, "token", scopes=frozenset({Scope.RETRY}))
    assert [scope for scope in Scope if person.has_scope(scope)] == list(Scope)
    assert [scope for scope in Scope if script.has_scope(scope)] == [Scope.RETRY]


def test_a_directory_that_knows_passwords_alone_makes_operators() -> None:
    class Directory(TaskAuthBackend):
        def authenticate_user(self, username: str, password: str) -> bool:
            return (username, password) == ("ada", "secret")

    assert Directory().authenticate("ada", "secret") is Role.OPERATOR
    assert Directory().authenticate("ada", "guess") is None
    assert isinstance(Directory(), AuthBackend)
    assert not isinstance(Directory(), UserDirectory)
