"""The routes that make a new task from a finished one: as it was, or with other arguments."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from taskflow_otel.errors import TaskArgumentError, TaskStateError, UnknownTaskError
from taskflow_otel.model.payload import Given
from taskflow_otel.web.answers import task_out
from taskflow_otel.web.audit import REASON, AuditLog
from taskflow_otel.web.auth import Scope
from taskflow_otel.web.entrance import actor_of
from taskflow_otel.web.guard import Guard
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.web.refusals import InvalidInput
from taskflow_otel.web.routing import errors
from taskflow_otel.web.settings import WebSettings
from taskflow_otel.wire.retries import ArgumentsOut, ParameterOut, RetryIn
from taskflow_otel.wire.tasks import TaskOut

_LONGEST = 20_000
"""Characters of an argument that is shown to be edited."""
_UNCHANGED = RetryIn()
"""The body of a request without one. Where a body may also be null, some generated clients cannot leave it out."""


def add_retry_routes(
    router: APIRouter, engine: TaskEngine, settings: WebSettings, guard: Guard, audit: AuditLog
) -> None:
    """Retry a task, and what a form for other arguments shows."""
    hidden = None if settings.display_func_args else {"args", "kwargs", "arguments"}
    may_retry = Depends(guard.acting(Scope.RETRY))

    @router.get("/{task_id}/arguments", dependencies=[Depends(guard.viewer)], summary="The parameters of a task")
    async def get_arguments(task_id: str) -> ArgumentsOut:
        """The parameters of the task's function, with the stored arguments where arguments are displayed."""
        try:
            found = await engine.retries.parameters(task_id)
        except (UnknownTaskError, TaskStateError, TaskArgumentError) as exc:
            return ArgumentsOut(parameters=[], shown=False, editable=False, why=str(exc))
        shown = settings.display_func_args and any(one.given for one in found)
        parameters = [_parameter(one, shown=shown) for one in found]
        return ArgumentsOut(parameters=parameters, shown=shown, editable=True, why=None)

    @router.post(
        "/{task_id}/retry",
        status_code=202,
        dependencies=[may_retry, REASON],
        response_model=TaskOut,
        responses=errors(409),
        summary="Retry a finished task",
    )
    async def retry_task(
        request: Request,
        task_id: str,
        body: RetryIn = _UNCHANGED,
        rerun: Annotated[bool, Query(description="Also run a successful task once more.")] = False,
    ) -> Response:
        """Make a new task from a finished one and return it; `retry_of` and `retried_by` link the two.

        If several requests retry one task at once, one succeeds; the others get 409 with the id of the new task.
        Other arguments need the scope `edit` if the request has an API token.
        """
        arguments = body.arguments
        if arguments and (actor := actor_of(request)) is not None:
            guard.require(actor, Scope.EDIT)
        try:
            record = await engine.retries.retry(task_id, rerun=rerun, arguments=arguments)
        except TaskArgumentError as exc:
            if not arguments:
                raise
            raise InvalidInput("arguments", str(exc)) from exc
        # The names alone: everybody who may look reads the audit.
        changed = f", with another {', another '.join(sorted(arguments))}" if arguments else ""
        audit.note(request, detail=f"as {record.task_id}{changed}")
        task = task_out(record, with_args=settings.display_func_args)
        return JSONResponse(task.model_dump(mode="json", exclude=hidden), 202)


def _parameter(one: Given, *, shown: bool) -> ParameterOut:
    text = _text(one) if shown and one.given else None
    return ParameterOut(
        name=one.name,
        annotation=one.parameter.declared,
        required=one.parameter.required,
        given=one.given,
        value=None if text is None or len(text) > _LONGEST else text,
    )


def _text(one: Given) -> str | None:
    value = one.value
    try:
        return json.dumps(value, ensure_ascii=False, indent=2 if isinstance(value, dict | list) and value else None)
    except (ValueError, TypeError, RecursionError):
        # A number of thousands of digits; the argument stays as it is.
        return None
