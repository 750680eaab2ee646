"""How every route of the API takes a request: who may come in, what it refuses, and what it answers to errors."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, ClassVar
from urllib.parse import urlencode

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Message, Receive, Scope, Send

from taskflow_otel.compat.fastapi import dependency_calls, only_media_type, query_names
from taskflow_otel.compat.starlette import is_slash_tried
from taskflow_otel.web.audit import AuditLog
from taskflow_otel.web.entrance import allowed_parameters, bounded, complete, entrances, refuse_large_body
from taskflow_otel.web.headers import API_HEADERS
from taskflow_otel.web.problems import HOME, ProblemAnswer, answer_to, problem_answer
from taskflow_otel.web.refusals import (
    READING,
    Refusal,
    is_storable,
    refuse_arguments,
    refuse_body,
    refuse_unclear_parameters,
    refuse_unknown_parameters,
)
from taskflow_otel.wire.bodies import ErrorOut
from taskflow_otel.wire.problems import METHOD_NOT_ALLOWED, NOT_FOUND, PROBLEM_TYPE, SERVER_ERROR

_UNEXPECTED = "an unexpected error; look for its traceback in the log of the server, and report it"


class TaskflowRoute(APIRoute):
    """Decides who may come in before it reads the body, and answers errors itself.

    A route that changes something answers 422 to what it does not know, and is audited under its name, whatever its
    answer is. The application's error handlers are called for errors of the application's own classes alone. An
    unexpected error is answered by 500 without its text, and raised, so that the server logs it. `home` is the path of
    the administration.
    """

    leaves_errors_to_stacks: ClassVar[bool] = True
    """It answers errors of its own routes, which add no tasks of the application; a sign-in has stacks of its own."""
    home: ClassVar[str] = ""
    audit: ClassVar[AuditLog | None] = None

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
                if admit:
                    refuse_arguments(request, known | allowed_parameters(request))
                if changes:
                    refuse_unknown_parameters(request, known | allowed_parameters(request))
                    if not takes_body:
                        await refuse_body(request)
                if admit:
                    refuse_unclear_parameters(request, known)
                response = await handler(request)
                complete(request, response)
                for name, value in API_HEADERS.items():
                    response.headers.setdefault(name, value)
                return response
            except Exception as exc:
                answer = answer_to(request.scope, exc)
                if answer is None:
                    raise
                return answer

        async def audited(request: Request) -> Response:
            action = self.name if changes else None
            status, why = 500, _UNEXPECTED
            try:
                response = await guarded(request)
                status, why = response.status_code, response.sentence if isinstance(response, ProblemAnswer) else ""
                return response
            finally:
                if self.audit is not None:
                    # Reading is not audited, but its refusal is.
                    refused = self.name if status == HTTPStatus.FORBIDDEN else None
                    await self.audit.settle(request, action or refused, status, why)

        return audited

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the route takes a request; never at an address whose last slash the client did not write, or wrote.

        The router would redirect there, before any check and without the headers of every answer.
        """
        return (Match.NONE, {}) if is_slash_tried(scope) else super().matches(scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 405 in the shape of the API to a method that the address does not have."""
        scope[HOME] = f"{scope.get('root_path', '')}{self.home}"
        methods = sorted(self.methods or ())
        if methods and scope["method"] not in methods:
            sentence = f"this address does not take {scope['method']}; it takes {' or '.join(methods)}"
            headers = {"Allow": ", ".join(methods)}
            await problem_answer(scope, METHOD_NOT_ALLOWED, sentence, headers)(scope, receive, send)
            return
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
                await problem_answer(scope, SERVER_ERROR, _UNEXPECTED)(scope, receive, send)
            raise


def route_class(home: str, audit: AuditLog | None = None) -> type[TaskflowRoute]:
    """The class of the routes of one administration, whose path is `home`."""
    return type(TaskflowRoute.__name__, (TaskflowRoute,), {"home": home, "audit": audit})


def _refuse_impossible_names(request: Request) -> None:
    """Answer 404 to a name that no stored object can have: a database would raise its own error."""
    for name, value in request.path_params.items():
        if not is_storable(str(value)):
            raise Refusal(
                NOT_FOUND, f"there is nothing with the {name} {str(value)[:100]!a}; take the name from the list"
            )


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
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}}}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Error answers of a route, for OpenAPI. Those that follow from its kind are added by `web.documented`."""
    schema = {"$ref": f"#/components/schemas/{ErrorOut.__name__}"}
    return {
        status: {
            # The model is what puts the schema into the document.
            "model": ErrorOut,
            "description": _MEANING[status],
            "content": only_media_type(PROBLEM_TYPE, {"schema": schema}),
            **({"headers": _RETRY_AFTER} if status in {429, 503} else {}),
        }
        for status in sorted(statuses)
    }


NEXT_PAGE: dict[str, Any] = {
    "X-Next-Cursor": {
        "description": "Cursor of the next page; absent on the last one. A page may end early, even without any entry; "
        "the cursor continues it.",
        "schema": {"type": "string"},
    },
    "Link": {"description": "The next page, `rel=next` (RFC 8288).", "schema": {"type": "string"}},
}
"""The headers of a list, for OpenAPI."""


def link_next(request: Request, response: Response, cursor: str) -> None:
    """Set the headers that lead to the next page of a list."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    response.headers["X-Next-Cursor"] = cursor
    # Relative, so that it works behind any proxy.
    response.headers["Link"] = f'<?{urlencode([*kept, ("cursor", cursor)])}>; rel="next"'
