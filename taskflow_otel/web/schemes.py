"""The ways to log in, as OpenAPI describes them; the guard itself reads the headers."""

from __future__ import annotations

from fastapi.openapi.models import APIKey, APIKeyIn, HTTPBase, HTTPBearer
from fastapi.openapi.models import SecurityBase as Model
from fastapi.security.base import SecurityBase

from taskflow_otel.web.sessions import COOKIE


class Scheme(SecurityBase):
    """A security scheme that decides nothing: it is a dependency so that the document shows it."""

    def __init__(self, name: str, model: Model) -> None:
        self.scheme_name = name
        self.model = model

    async def __call__(self) -> None:
        """Nothing: the guard has decided before."""


SESSION = Scheme(
    "session",
    APIKey.model_validate(
        {
            "in": APIKeyIn.cookie,
            "name": COOKIE,
            "description": "The cookie of the login form. Requests that change something also need `X-CSRF-Token`.",
        }
    ),
)
BASIC = Scheme("basic", HTTPBase(scheme="basic", description="A user and a password."))
METRICS_TOKEN = Scheme("metrics_token", HTTPBearer(description="The `metrics_token` of the administration."))
API_TOKEN = Scheme("api_token", HTTPBearer(description="An API token with the scope that the route needs."))
