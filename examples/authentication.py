"""The application's own sign-in in front of the administration, a token for scripts, and one for Prometheus.

uvicorn examples.authentication:app

curl 'http://127.0.0.1:8000/tasks' # 401
curl -H 'X-User: ada' 'http://127.0.0.1:8000/tasks'
curl -H 'X-User: vic' -X POST 'http://127.0.0.1:8000/tasks/queues/default/pause' # 403
curl -H 'Authorization: Bearer a-token-of-a-script-0123456789-0123456789' 'http://127.0.0.1:8000/tasks'
curl -H 'Authorization: Bearer the-token-of-prometheus-0123456789-0123456789' 'http://127.0.0.1:8000/tasks/metrics'
"""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Header, HTTPException

from taskflow_otel import ApiToken, TaskAdmin, TaskManager

ROLES = {"ada": "operator", "vic": "viewer"}


async def current_user(x_user: Annotated[str | None, Header()] = None) -> str:
    """Stands for OAuth2, OpenID Connect or the header of a proxy: any dependency that returns a user or raises."""
    if x_user not in ROLES:
        raise HTTPException(401, "who are you?")
    return x_user


app = FastAPI()
task_manager = TaskManager()
TaskAdmin(
    app,
    task_manager,
    auth=current_user,
    role=ROLES.get,
    tokens=[ApiToken("deploy", "a-token-of-a-script-0123456789-0123456789", scopes=("read", "retry"))],
    metrics_token="the-token-of-prometheus-0123456789-0123456789",
)
