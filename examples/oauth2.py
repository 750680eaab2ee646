"""The application's OAuth2 sign-in in front of the administration: as a bearer token, and as a cookie for the page.

uvicorn examples.oauth2:app

curl 'http://127.0.0.1:8000/tasks' # 401
curl -d 'username=ada&password=wrong' 'http://127.0.0.1:8000/token' # 401
TOKEN=$(curl -s -d 'username=ada&password=secret' 'http://127.0.0.1:8000/token' | jq -r .access_token)
curl -H "Authorization: Bearer $TOKEN" 'http://127.0.0.1:8000/tasks'
curl -H "Authorization: Bearer $TOKEN" -X POST 'http://127.0.0.1:8000/tasks/queues/default/pause'
curl -H "Authorization: Bearer x$TOKEN" 'http://127.0.0.1:8000/tasks' # 401
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
from typing import Annotated

from fastapi import Cookie, Depends, FastAPI, HTTPException, Response
from fastapi.security import OAuth2PasswordBearer, OAuth2PasswordRequestForm

from taskflow_otel import TaskAdmin, TaskManager

# Stands for the users and the JWT library of the application.
KEY = os.environ.get("SIGNING_KEY", "change-me").encode()
PASSWORDS = {"ada": "secret", "vic": "hidden"}
ROLES = {"ada": "operator", "vic": "viewer"}
HOUR = 3600

bearer = OAuth2PasswordBearer(tokenUrl="token", auto_error=False)


def sign(body: bytes) -> str:
    return hmac.new(KEY, body, hashlib.sha256).hexdigest()


def make_token(user: str) -> str:
    body = base64.urlsafe_b64encode(json.dumps({"sub": user, "exp": time.time() + HOUR}).encode())
    return f"{body.decode()}.{sign(body)}"


def read_token(token: str) -> str | None:
    body, _, signature = token.partition(".")
    if not hmac.compare_digest(sign(body.encode()), signature):
        return None
    claims = json.loads(base64.urlsafe_b64decode(body))
    return str(claims["sub"]) if claims["exp"] > time.time() else None


async def current_user(
    token: Annotated[str | None, Depends(bearer)] = None, access_token: Annotated[str | None, Cookie()] = None
) -> str:
    """Any dependency that returns a user or raises. The page sends the cookie, a program the bearer token."""
    user = read_token(token or access_token or "")
    if user is None:
        raise HTTPException(401, "sign in at /token", {"WWW-Authenticate": "Bearer"})
    return user


app = FastAPI()
task_manager = TaskManager()
TaskAdmin(app, task_manager, auth=current_user, role=ROLES.get)


@app.post("/token")
async def sign_in(form: Annotated[OAuth2PasswordRequestForm, Depends()], response: Response) -> dict[str, str]:
    if not hmac.compare_digest(PASSWORDS.get(form.username, "").encode(), form.password.encode()):
        raise HTTPException(401, "wrong user or password")
    token = make_token(form.username)
    # `secure=True` too, where the application is reached by https.
    response.set_cookie("access_token", token, max_age=HOUR, httponly=True, samesite="strict")
    return {"access_token": token, "token_type": "bearer"}
