"""An app whose administration asks for a login."""

from __future__ import annotations

from fastapi import FastAPI

from taskflow_otel import TaskAdmin, TaskManager
from tests.web.users import USER

app = FastAPI()
TaskAdmin(app, TaskManager(), auth=USER)
