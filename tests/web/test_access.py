"""The settings that decide who may come in."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.security import APIKeyHeader, HTTPBearer, OAuth2PasswordBearer

from taskflow_otel import TaskManager
from taskflow_otel.admin import TaskAdmin
from taskflow_otel.errors import ConfigurationError
from tests.web.users import Directory


def current_user() -> str:
    return "ada"


def operator(user: object) -> str:
    return "operator"


def with_body(user: dict[str, str]) -> str:
    return user["name"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"auth": "hunter2-password"}, "auth must be"),
        ({"auth": 5}, "it is int"),
        ({"auth": {}}, "it is dict"),
        ({"auth": Directory}, r"give an object of it: Directory\(\)"),
        ({"auth": Directory(), "role": operator}, "role= belongs to"),
        ({"role": operator}, "there is no auth"),
        ({"auth": current_user}, "role= is needed"),
        ({"auth": Depends(current_user)}, "role= is needed"),
        ({"auth": Depends(), "role": operator}, "needs the dependency"),
        ({"auth": OAuth2PasswordBearer("token"), "role": operator}, "OAuth2PasswordBearer.*only reads a credential"),
        ({"auth": Depends(APIKeyHeader(name="X-Key")), "role": operator}, "APIKeyHeader.*only reads a credential"),
        ({"auth": HTTPBearer(), "role": operator}, "HTTPBearer.*only reads a credential"),
        ({"auth": with_body, "role": operator}, "must not take the request's body"),
    ],
)
def test_an_auth_that_would_protect_nothing_or_never_work_is_refused(options: dict[str, Any], says: str) -> None:
    app = FastAPI()
    before = list(app.routes)
    with pytest.raises(ConfigurationError, match=says) as caught:
        TaskAdmin(app, TaskManager(), **options)
    assert app.routes == before
    assert "hunter2" not in str(caught.value)
