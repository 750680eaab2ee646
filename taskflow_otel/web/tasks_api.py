"""The routes about tasks: list, detail, cancel, and where a running one is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter

from taskflow_otel.model.argument_filter import ArgumentFilter
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.runtime.owned_tasks import in_slices
from taskflow_otel.web.answers import task_detail, task_out
from taskflow_otel.web.argument_search import search
from taskflow_otel.web.audit import REASON
from taskflow_otel.web.auth import Scope
from taskflow_otel.web.entrance import actor_of
from taskflow_otel.web.guard import Guard
from taskflow_otel.web.params import COUNT_LIMIT, MAX_PAGE, Absent, argument_filter, page_cursor, task_filter
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.web.refusals import InvalidInput
from taskflow_otel.web.routing import errors
from taskflow_otel.web.settings import WebSettings
from taskflow_otel.wire.tasks import TaskDetailOut, TaskOut

_TASKS = TypeAdapter(list[TaskOut])
_ENCODED_AT_ONCE = 50
_HIDDEN = (
    "tasks cannot be found by their arguments here, because arguments are hidden: TaskAdmin(display_func_args=True) "
    "shows them, and lets everyone who may look search them. Give tasks a tag to find them by."
)
_LIST_HEADERS = {
    "X-Total-Count": {
        "description": "Number of tasks that match; with `args`, of those that this request has searched.",
        "schema": {"type": "integer"},
    },
    "X-Total-Count-Exact": {
        "description": "`false`: the number is a lower bound, because not all tasks were counted.",
        "schema": {"type": "boolean"},
    },
    "X-Next-Cursor": {
        "description": "Cursor of the next page; absent on the last one. A search that reads many tasks may end a page "
        "early, even without any task; the cursor continues it.",
        "schema": {"type": "string"},
    },
    "X-Searched-Count": {
        "description": "With `args`: the number of tasks whose arguments this request compared.",
        "schema": {"type": "integer"},
    },
    "X-Searched-Back-To": {
        "description": "With `args`: when the oldest task was created to which this request has come; absent if there "
        "was none.",
        "schema": {"type": "string", "format": "date-time"},
    },
    "X-Unsearchable-Count": {
        "description": "With `args`: how many of the tasks this request could not search, because their arguments are "
        "encrypted, damaged or unknown.",
        "schema": {"type": "integer"},
    },
    "Link": {"description": "The next page, `rel=next` (RFC 8288).", "schema": {"type": "string"}},
}


def add_collection_routes(router: APIRouter, engine: TaskEngine, settings: WebSettings, guard: Guard) -> None:
    """The routes with fixed names, which must come before the routes with a task id."""
    hidden = None if settings.display_func_args else {"__all__": {"args", "kwargs"}}

    async def encode(records: Sequence[TaskRecord]) -> bytes:
        """A JSON array, made a few tasks at a time, so that a long page does not keep the event loop."""
        pieces: list[bytes] = []
        async for start in in_slices(range(0, len(records), _ENCODED_AT_ONCE), 1):
            some = records[start : start + _ENCODED_AT_ONCE]
            tasks = [task_out(record, with_args=settings.display_func_args) for record in some]
            pieces.append(_TASKS.dump_json(tasks, exclude=hidden).removeprefix(b"[").removesuffix(b"]"))
        return b"[%b]" % b",".join(pieces)

    async def list_tasks(
        request: Request,
        found: Annotated[TaskQuery, Depends(task_filter)],
        arguments: Annotated[ArgumentFilter | None, Depends(argument_filter)],
        cursor: Annotated[str | None, Depends(page_cursor)],
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Tasks on a page.")] = 100,
    ) -> Response:
        """The tasks of all instances that share the backend, newest first."""
        headers: dict[str, str] = {}
        if arguments is None:
            page = await engine.lookup.page(replace(found, limit=limit, cursor=cursor, count_limit=COUNT_LIMIT))
        else:
            if not settings.display_func_args:
                raise InvalidInput("args", _HIDDEN)
            searched = await search(engine.lookup, replace(found, limit=limit, cursor=cursor), arguments)
            page = searched.page
            headers["X-Searched-Count"] = str(searched.number)
            headers["X-Unsearchable-Count"] = str(searched.unsearchable)
            if searched.back_to is not None:
                headers["X-Searched-Back-To"] = searched.back_to.isoformat()
        if page.total is not None:
            headers["X-Total-Count"] = str(page.total)
            headers["X-Total-Count-Exact"] = "true" if page.total_exact else "false"
        if page.next_cursor is not None:
            kept = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
            headers["X-Next-Cursor"] = page.next_cursor
            # Relative, so that it works behind any proxy.
            headers["Link"] = f'<?{urlencode([*kept, ("cursor", page.next_cursor)])}>; rel="next"'
        return Response(await encode(page.records), headers=headers, media_type="application/json")

    listing = {
        "methods": ["GET"],
        "response_model": list[TaskOut],
        "dependencies": [Depends(guard.viewer)],
        "summary": "List tasks",
        "responses": {200: {"headers": _LIST_HEADERS}},
    }
    router.add_api_route("", list_tasks, **listing)  # type: ignore[arg-type]  # shared keywords of two routes
    router.add_api_route("/", list_tasks, include_in_schema=False, **listing)  # type: ignore[arg-type]  # as above


def add_item_routes(router: APIRouter, engine: TaskEngine, settings: WebSettings, guard: Guard) -> None:
    """The routes of one task."""
    hidden = None if settings.display_func_args else {"args", "kwargs", "arguments"}
    may_cancel = Depends(guard.acting(Scope.CANCEL))
    may_inspect = Depends(guard.acting(Scope.INSPECT))

    @router.get(
        "/{task_id}",
        response_model=TaskDetailOut,
        dependencies=[Depends(guard.viewer)],
        summary="One task",
    )
    async def get_task(
        task_id: str,
        logs_after: Annotated[
            int | Absent, Query(ge=-1, description="Only log lines with a greater `seq`, to follow a log.")
        ] = None,
    ) -> Response:
        """One task with its logs, error, traceback and timeline."""
        record = await engine.lookup.get(task_id)
        lines = await engine.lookup.logs(task_id)
        if logs_after is not None:
            lines = [line for line in lines if line.seq > logs_after]
        detail = task_detail(record, lines, with_args=settings.display_func_args)
        detail.releases = dict(await engine.board.releases_of({entry.instance for entry in record.timeline}))
        return _one(detail, hidden, 200)

    @router.post(
        "/{task_id}/cancel",
        status_code=202,
        dependencies=[may_cancel, REASON],
        response_model=TaskOut,
        responses=errors(409),
        summary="Cancel a live task",
    )
    async def cancel_task(task_id: str) -> Response:
        """Cancel a pending or running task of any instance."""
        record = await engine.control.cancel(task_id)
        return _one(task_out(record, with_args=settings.display_func_args), hidden, 202)

    @router.post(
        "/{task_id}/stack",
        status_code=202,
        dependencies=[may_inspect, REASON],
        response_model=TaskOut,
        responses=errors(409),
        summary="Ask where a running task is",
    )
    async def ask_for_stack(request: Request, task_id: str) -> Response:
        """Have the stack of a running task written into its log: files, lines and functions, without any values.

        The instance that runs the task writes it: this one at once, another one within about a second.
        """
        actor = actor_of(request)
        await engine.stacks.ask(task_id, by=None if actor is None else actor.name)
        record = await engine.lookup.get(task_id)
        return _one(task_out(record, with_args=settings.display_func_args), hidden, 202)


def _one(task: TaskOut, hidden: set[str] | None, status: int) -> JSONResponse:
    return JSONResponse(task.model_dump(mode="json", exclude=hidden), status)
