"""Errors as answers: each is a problem body (RFC 9457) that has the headers of every answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from taskflow_otel.errors import (
    BackendError,
    ConfigurationError,
    KeyReusedError,
    NotStartedError,
    OperationNotFoundError,
    QueueFullError,
    TaskArgumentError,
    TaskNotFoundError,
    TaskStateError,
    UnknownQueueError,
    UnknownScheduleError,
    UnknownTaskError,
)
from taskflow_otel.web.headers import API_HEADERS
from taskflow_otel.web.refusals import Refusal
from taskflow_otel.wire.bodies import ErrorOut
from taskflow_otel.wire.problems import (
    ARGUMENTS_UNREADABLE,
    INVALID_INPUT,
    INVALID_JSON,
    NOT_STARTED,
    OPERATION_NOT_FOUND,
    PROBLEM_TYPE,
    QUEUE_FULL,
    QUEUE_NOT_FOUND,
    SCHEDULE_NOT_FOUND,
    TASK_NOT_FOUND,
    TASK_NOT_REGISTERED,
    TASK_STATE,
    UNREADABLE_BODY,
    USUAL,
    Problem,
)

HOME = "taskflow_otel.home"
"""The key of the scope with the path of the administration as clients write it, a prefix of the server included."""

_UNREADABLE = "There was an error parsing the body"
"""What FastAPI says of a body that is not text."""

# The first class that matches counts, so a class comes before its bases.
_OF_ERRORS: tuple[tuple[type[Exception], Problem], ...] = (
    (TaskNotFoundError, TASK_NOT_FOUND),
    (UnknownQueueError, QUEUE_NOT_FOUND),
    (UnknownScheduleError, SCHEDULE_NOT_FOUND),
    (OperationNotFoundError, OPERATION_NOT_FOUND),
    (TaskStateError, TASK_STATE),
    (UnknownTaskError, TASK_NOT_REGISTERED),
    (TaskArgumentError, ARGUMENTS_UNREADABLE),
    (QueueFullError, QUEUE_FULL),
    (NotStartedError, NOT_STARTED),
    (ConfigurationError, INVALID_INPUT),
    (KeyReusedError, INVALID_INPUT),
)


class ProblemAnswer(JSONResponse):
    """An error, as it is answered; `sentence` says what is wrong."""

    media_type = PROBLEM_TYPE

    def __init__(self, body: ErrorOut, headers: Mapping[str, str] | None) -> None:
        super().__init__(body.model_dump(), body.status, {**API_HEADERS, **(headers or {})})
        self.sentence: str = body.detail


def problem_answer(
    scope: Scope,
    problem: Problem,
    sentence: str,
    headers: Mapping[str, str] | None = None,
    *,
    fields: Sequence[str] = (),
) -> ProblemAnswer:
    """The answer to a request that fails."""
    home = scope.get(HOME)
    where = "about:blank" if home is None else f"{home}/problems#{problem.name}"
    return _answer(where, problem.title, problem.status, sentence, headers, fields)


def answer_to(scope: Scope, error: Exception) -> ProblemAnswer | None:
    """The answer to an error that the API expects; `None` for another one."""
    if isinstance(error, HTTPException):
        if error.detail == _UNREADABLE:
            return problem_answer(scope, UNREADABLE_BODY, "the request body cannot be read: send JSON in UTF-8")
        problem = error.problem if isinstance(error, Refusal) else USUAL.get(error.status_code)
        fields = error.fields if isinstance(error, Refusal) else ()
        if problem is None:
            # The authentication of the application answers as it likes; there is nothing to add to its status.
            title = HTTPStatus(error.status_code).phrase
            return _answer("about:blank", title, error.status_code, str(error.detail), error.headers, fields)
        return problem_answer(scope, problem, str(error.detail), error.headers, fields=fields)
    if isinstance(error, RequestValidationError):
        return _invalid(scope, error)
    if isinstance(error, BackendError):
        status, headers = error.http_answer
        advice = "; try again later" if error.transient else ""
        return problem_answer(scope, USUAL[status], f"{error}{advice}", headers)
    for kind, problem in _OF_ERRORS:
        if isinstance(error, kind):
            return problem_answer(scope, problem, str(error), {"Retry-After": "1"} if problem.status == 503 else None)
    return None


def _answer(
    where: str, title: str, status: int, sentence: str, headers: Mapping[str, str] | None, fields: Sequence[str]
) -> ProblemAnswer:
    body = ErrorOut(type=where, title=title, status=status, detail=sentence, fields=list(fields))
    return ProblemAnswer(body, headers)


def _invalid(scope: Scope, error: RequestValidationError) -> ProblemAnswer:
    parts: list[str] = []
    fields: list[str] = []
    for one in error.errors():
        if one["type"] == "json_invalid":
            return problem_answer(scope, INVALID_JSON, _not_json(error.body, one["loc"][-1], one["ctx"]["error"]))
        field = ".".join(str(part) for part in one["loc"][1:])
        if field:
            fields.append(field)
        parts.append(f"{field or 'the request body'}: {one['msg'][:1].lower()}{one['msg'][1:]}")
    return problem_answer(scope, INVALID_INPUT, "; ".join(parts), fields=fields)


def _not_json(text: Any, position: Any, what: str) -> str:
    if not isinstance(text, str) or not isinstance(position, int):
        return f"the request body is not JSON: {what}"
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return f"the request body is not JSON: {what} at line {line}, column {column}"
