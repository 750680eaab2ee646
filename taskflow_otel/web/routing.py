"""How every route of the API answers errors: a problem body (RFC 9457) with the matching status."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import Message, Receive, Scope, Send

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
from taskflow_otel.web.audit import AuditLog
from taskflow_otel.web.entrance import allowed_parameters, bounded, complete, entrances, refuse_large_body
from taskflow_otel.web.headers import API_HEADERS
from taskflow_otel.web.refusals import (
    READING,
    InvalidInput,
    is_storable,
    refuse_body,
    refuse_unknown_parameters,
)
from taskflow_otel.wire.bodies import ErrorOut

PROBLEM_TYPE = "application/problem+json"

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (TaskNotFoundError, 404),
    (UnknownQueueError, 404),
    (UnknownScheduleError, 404),
    (TaskStateError, 409),
    (UnknownTaskError, 409),
    (TaskArgumentError, 409),
    (QueueFullError, 503),
    (NotStartedError, 503),
    (ConfigurationError, 422),
)


class TaskflowRoute(APIRoute):
    """Decides who may come in before it reads the body, and answers errors itself.

    A route that changes something answers 422 to what it does not know, and is audited under its name, whatever its
    answer is. The application's error handlers are not called.
    """

    audit: AuditLog | None = None

    @classmethod
    def audited_by(cls, audit: AuditLog) -> type[TaskflowRoute]:
        """This class, with an audit."""
        return type("AuditedRoute", (cls,), {"audit": audit})

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        admit = entrances(dependency_calls(self.dependant))
        known = query_names(self.dependant)
        # The login form is not a route of the API: it has no entrance, and reads its own body.
        changes = bool(admit) and not READING.issuperset(self.methods or ())
        takes_body = self.body_field is not None

        async def guarded(request: Request) -> Response:
            request = bounded(request)
            try:
                for entrance in admit:
                    await entrance(request)
                _refuse_impossible_names(request)
                refuse_large_body(request)
                if changes:
                    refuse_unknown_parameters(request, known | allowed_parameters(request))
                    if not takes_body:
                        await refuse_body(request)
                response = await handler(request)
                complete(request, response)
                for name, value in API_HEADERS.items():
                    response.headers.setdefault(name, value)
                return response
            except StarletteHTTPException as exc:  # FastAPI raises that for a body that is not text
                fields = [exc.field] if isinstance(exc, InvalidInput) else []
                return problem(exc.status_code, str(exc.detail), exc.headers, fields=fields)
            except RequestValidationError as exc:
                return _invalid(exc)
            except BackendError as exc:
                status, headers = exc.http_answer
                return problem(status, str(exc), headers)
            except tuple(kind for kind, _ in _STATUS) as exc:
                status = next(status for kind, status in _STATUS if isinstance(exc, kind))
                return problem(status, str(exc), {"Retry-After": "1"} if status == 503 else None)

        async def audited(request: Request) -> Response:
            action = self.name if changes else None
            status, why = 500, "an unexpected error, which the log of the server has"
            try:
                response = await guarded(request)
                status, why = response.status_code, response.sentence if isinstance(response, Problem) else ""
                return response
            finally:
                if self.audit is not None:
                    await self.audit.settle(request, action, status, why)

        return audited

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 405 in the shape of the API to a method that the address does not have, and 500 where it fails."""
        methods = sorted(self.methods or ())
        if scope["method"] in methods:
            await self._answer(scope, receive, send)
            return
        sentence = f"this address does not take {scope['method']}; it takes {' or '.join(methods)}"
        await problem(405, sentence, {"Allow": ", ".join(methods)})(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await super().handle(scope, receive, noted)
        except Exception:
            # Answered here, with the headers of every answer, and raised: the application reports it.
            if not begun:
                await problem(500, "this is an error of the server; its log has the details")(scope, receive, send)
            raise


class Problem(JSONResponse):
    """An error, as it is answered; `sentence` says what is wrong."""

    media_type = PROBLEM_TYPE
    sentence: str = ""


def problem(status: int, sentence: str, headers: Any = None, *, fields: Sequence[str] = ()) -> Problem:
    """The one shape of an error (RFC 9457)."""
    body = ErrorOut(title=HTTPStatus(status).phrase, status=status, detail=sentence, fields=list(fields))
    answer = Problem(body.model_dump(), status, {**API_HEADERS, **(headers or {})})
    answer.sentence = sentence
    return answer


def _invalid(exc: RequestValidationError) -> Problem:
    parts: list[str] = []
    fields: list[str] = []
    for error in exc.errors():
        if error["type"] == "json_invalid":
            parts.append(_not_json(exc.body, error["loc"][-1], error["ctx"]["error"]))
            continue
        field = ".".join(str(part) for part in error["loc"][1:])
        if field:
            fields.append(field)
        parts.append(f"{field or 'the request body'}: {error['msg'][:1].lower()}{error['msg'][1:]}")
    return problem(422, "; ".join(parts), fields=fields)


def _not_json(text: Any, position: Any, what: str) -> str:
    if not isinstance(text, str) or not isinstance(position, int):
        return f"the request body is not JSON: {what}"
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return f"the request body is not JSON: {what} at line {line}, column {column}"


def _refuse_impossible_names(request: Request) -> None:
    """Answer 404 to a name that no stored object can have: a database would raise its own error."""
    for name, value in request.path_params.items():
        if not is_storable(str(value)):
            raise HTTPException(404, detail=f"there is nothing with the {name} {value!a}")


_MEANING = {
    400: "The request body cannot be read.",
    401: "Log in first.",
    403: "Not allowed: read-only, wrong role, or a missing CSRF token.",
    404: "Not found.",
    409: "The current state does not allow it; the reason is in `detail`.",
    413: "The request body is too large.",
    421: "Not answered under this name: `TaskAdmin(allowed_hosts=...)`.",
    422: "The input is invalid; `detail` says why.",
    429: "Too many wrong passwords; `Retry-After` says how long to wait.",
    503: "The manager or its backend is not available, or the queue is full.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for OpenAPI; 401, 421, 429 and 503 are possible everywhere."""
    schema = {"$ref": f"#/components/schemas/{ErrorOut.__name__}"}
    return {
        # The model is what puts the schema into the document.
        status: {"model": ErrorOut, "description": _MEANING[status], "content": {PROBLEM_TYPE: {"schema": schema}}}
        for status in sorted({401, 421, 429, 503, *statuses})
    }
