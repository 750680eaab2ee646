"""A provider of OpenID Connect as an application sees it: signed id tokens (OpenID Connect Core 1.0, section 2)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Annotated, Any

from fastapi import Depends, HTTPException
from fastapi.security import OpenIdConnect

_DAY = 86_400
"""Parameters of tests are made when the tests are collected, and used at the end of a long run."""
ISSUER, AUDIENCE = "https://id.example", "shop"
KEY = b"the key of the provider, which signs with HS256"
scheme = OpenIdConnect(openIdConnectUrl=f"{ISSUER}/.well-known/openid-configuration", auto_error=False)


def id_token(key: bytes = KEY, **claims: Any) -> str:
    """A token that the provider has signed, unless another key is given."""
    now = int(time.time())
    body = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "auth0|17",
        "preferred_username": "ada",
        "iat": now,
        "exp": now + _DAY,
    }
    signed = ".".join(_encoded(json.dumps(part).encode()) for part in ({"alg": "HS256"}, {**body, **claims}))
    return f"{signed}.{_encoded(hmac.digest(key, signed.encode(), hashlib.sha256))}"


async def by_oidc(authorization: Annotated[str | None, Depends(scheme)]) -> dict[str, Any]:
    """The claims of the user, as an application checks them."""
    word, _, token = (authorization or "").partition(" ")
    signed, _, signature = token.rpartition(".")
    expected = _encoded(hmac.digest(KEY, signed.encode(), hashlib.sha256))
    if word != "Bearer" or not hmac.compare_digest(signature.encode(), expected.encode()):
        raise HTTPException(401, "not a token of the provider", {"WWW-Authenticate": "Bearer"})
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(signed.partition(".")[2] + "=="))
    if claims["iss"] != ISSUER or claims["aud"] != AUDIENCE or claims["exp"] <= time.time():
        raise HTTPException(401, "not a token for this application, or an old one", {"WWW-Authenticate": "Bearer"})
    return claims


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
