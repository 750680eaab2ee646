"""How every route of the API answers errors: `{"detail": sentence}` with the matching status."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from taskflow_otel.compat.fastapi import dependency_calls, query_names
from taskflow_otel.errors import (
    BackendError,
    ConfigurationError,
    NotStartedError,
    QueueFullError,
    TaskArgumentError,
    TaskNotFoundError,
    TaskStateError,
    UnknownQueueError,
    UnknownScheduleError,
    UnknownTaskError,
)
from taskflow_otel.web.entrance import bounded, entrances
from taskflow_otel.web.headers import API_HEADERS
from taskflow_otel.web.refusals import READING, refuse_body, refuse_unknown_parameters
from taskflow_otel.web.schemas import ErrorOut

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (TaskNotFoundError, 404),
    (UnknownQueueError, 404),
    (UnknownScheduleError, 404),
    (TaskStateError, 409),
    (UnknownTaskError, 409),
    (TaskArgumentError, 409),
    (QueueFullError, 503),
    (NotStartedError, 503),
    (BackendError, 503),
    (ConfigurationError, 422),
)


class TaskflowRoute(APIRoute):
    """Decides who may come in before it reads the body, and answers errors itself.

    A route that changes something answers 422 to what it does not know. The application's error handlers are not
    called.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        admit = entrances(dependency_calls(self.dependant))
        known = query_names(self.dependant)
        # The login form is not a route of the API: it has no entrance, and reads its own body.
        changes = bool(admit) and not READING.issuperset(self.methods or ())
        takes_body = self.body_field is not None

        async def guarded(request: Request) -> Response:
            try:
                for entrance in admit:
                    await entrance(request)
                request = bounded(request)
                if changes:
                    refuse_unknown_parameters(request, known)
                    if not takes_body:
                        await refuse_body(request)
                response = await handler(request)
                for name, value in API_HEADERS.items():
                    response.headers.setdefault(name, value)
                return response
            except HTTPException as exc:
                return problem(exc.status_code, str(exc.detail), exc.headers)
            except RequestValidationError as exc:
                return problem(422, _sentence(exc))
            except tuple(kind for kind, _ in _STATUS) as exc:
                status = next(status for kind, status in _STATUS if isinstance(exc, kind))
                return problem(status, str(exc), {"Retry-After": "1"} if status == 503 else None)

        return guarded

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 405 in the shape of the API to a method that the address does not have."""
        methods = sorted(self.methods or ())
        if scope["method"] in methods:
            await super().handle(scope, receive, send)
            return
        sentence = f"this address does not take {scope['method']}; it takes {' or '.join(methods)}"
        await problem(405, sentence, {"Allow": ", ".join(methods)})(scope, receive, send)


def problem(status: int, sentence: str, headers: Any = None) -> JSONResponse:
    """The one shape of an error."""
    return JSONResponse({"detail": sentence}, status, {**API_HEADERS, **(headers or {})})


def _sentence(exc: RequestValidationError) -> str:
    parts = []
    for error in exc.errors():
        where = ".".join(str(part) for part in error["loc"][1:]) or "the request body"
        parts.append(f"{where}: {error['msg'][:1].lower()}{error['msg'][1:]}")
    return "; ".join(parts)


_MEANING = {
    400: "The request body cannot be read.",
    401: "Log in first.",
    403: "Not allowed: read-only, wrong role, or a missing CSRF token.",
    404: "Not found.",
    409: "The current state does not allow it; the reason is in `detail`.",
    413: "The request body is too large.",
    422: "The input is invalid; `detail` says why.",
    503: "The manager or its backend is not available, or the queue is full.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for OpenAPI; 401 and 503 are possible everywhere."""
    return {status: {"model": ErrorOut, "description": _MEANING[status]} for status in sorted({401, 503, *statuses})}
