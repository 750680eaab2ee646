"""The routes that show bulk operations: what was asked for, how far it is, and the result for each task."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from taskflow_otel.model.operation import OperationQuery
from taskflow_otel.model.vocabulary import OperationKind, OperationStatus
from taskflow_otel.web.guard import Guard
from taskflow_otel.web.params import MAX_PAGE, Absent, page_cursor
from taskflow_otel.web.ports import TaskEngine
from taskflow_otel.web.routing import NEXT_PAGE, link_next
from taskflow_otel.wire.bulk import OperationItemOut, OperationOut


def add_operation_routes(router: APIRouter, engine: TaskEngine, guard: Guard) -> None:
    """The operations, one of them, and its results."""
    viewer, book = [Depends(guard.viewer)], engine.operations
    paged: dict[int | str, dict[str, Any]] = {200: {"headers": NEXT_PAGE}}

    @router.get("/operations", dependencies=viewer, responses=paged, summary="Bulk operations")
    async def list_operations(
        request: Request,
        response: Response,
        cursor: Annotated[str | None, Depends(page_cursor)],
        kind: Annotated[OperationKind | Absent, Query(description="Only operations of this kind.")] = None,
        status: Annotated[OperationStatus | Absent, Query(description="Only operations in this state.")] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Operations on a page.")] = 100,
    ) -> list[OperationOut]:
        """The bulk operations of all instances that share the backend, newest first."""
        found = await book.page(
            OperationQuery(kind=kind and kind.value, status=status and status.value, limit=limit + 1, cursor=cursor)
        )
        if len(found) > limit:
            link_next(request, response, found[limit - 1].operation_id)
        return [OperationOut.model_validate(operation) for operation in found[:limit]]

    @router.get("/operations/{operation_id}", dependencies=viewer, summary="One operation")
    async def get_operation(operation_id: str) -> OperationOut:
        """What was asked for, and how far it is."""
        return OperationOut.model_validate(await book.get(operation_id))

    @router.get(
        "/operations/{operation_id}/results",
        dependencies=viewer,
        responses=paged,
        summary="The results of an operation",
    )
    async def list_results(
        request: Request,
        response: Response,
        operation_id: str,
        cursor: Annotated[int, Query(ge=0, description="`X-Next-Cursor` of the previous page.")] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Tasks on a page.")] = 100,
    ) -> list[OperationItemOut]:
        """The tasks of the operation in the order in which they are worked off, each with its result."""
        operation = await book.get(operation_id)
        found = await book.items(operation_id, cursor, limit)
        if cursor + len(found) < operation.total and found:
            link_next(request, response, str(cursor + len(found)))
        return [OperationItemOut.model_validate(item) for item in found]
