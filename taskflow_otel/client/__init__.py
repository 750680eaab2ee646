"""The API for programs: `Client` and `AsyncClient`, on httpx (`pip install 'taskflow-otel[client]'`)."""

from taskflow_otel.client.aio import AsyncClient
from taskflow_otel.client.errors import (
    ClientError,
    InvalidArgumentError,
    ProblemError,
    RedirectError,
    UnexpectedAnswerError,
    UnreachableError,
)
from taskflow_otel.client.events import Event
from taskflow_otel.client.rules import BearerAuth, Filters, ListFilters, Page
from taskflow_otel.client.sync import Client

__all__ = [
    "AsyncClient",
    "BearerAuth",
    "Client",
    "ClientError",
    "Event",
    "Filters",
    "InvalidArgumentError",
    "ListFilters",
    "Page",
    "ProblemError",
    "RedirectError",
    "UnexpectedAnswerError",
    "UnreachableError",
]
