"""The client for programs without asyncio, written from `client/aio.py`: change that one."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from types import EllipsisType, TracebackType
from typing import Any, Literal, Self, Unpack

from taskflow_otel.client.events import Event
from taskflow_otel.client.extra import httpx
from taskflow_otel.client.rules import (
    TIMEOUT,
    AuditPage,
    Filters,
    ListFilters,
    Moment,
    OperationPage,
    Page,
    ResultPage,
    read,
    read_page,
    read_text,
    segment,
    task_segment,
)
from taskflow_otel.client.sync_connection import Connection
from taskflow_otel.wire.audit import AuditOut
from taskflow_otel.wire.bodies import SessionOut
from taskflow_otel.wire.bulk import BulkCancelOut, BulkRetryOut, DeletedOut, OperationItemOut, OperationOut
from taskflow_otel.wire.failures import FailureDetailOut, FailureGroupOut, FailuresOut
from taskflow_otel.wire.figures import ObjectiveOut, OverviewOut, StatsOut
from taskflow_otel.wire.fleet import HealthOut, InstanceOut, ProbeOut, QueueOut, ScheduleOut, TickOut
from taskflow_otel.wire.releases import ReleaseOut
from taskflow_otel.wire.retries import ArgumentsOut
from taskflow_otel.wire.running import RunningOut
from taskflow_otel.wire.task_types import TaskTypesOut, TypeDetailOut
from taskflow_otel.wire.tasks import TaskDetailOut, TaskOut
from taskflow_otel.wire.traces import TraceOut


class Client:
    """The API of one administration; each method is one of its operations, and raises `ClientError`.

    `base_url`: the address of the administration (`http://localhost:8000/tasks`). `auth`: a user and a password, or any
    `httpx.Auth`; or else `token`: a bearer token. `timeout`: seconds to connect, and between two parts of an answer.
    `http`: a configured `httpx.Client` to use instead of an own one; its owner closes it.

    `reason=`, which each method that changes something takes, is kept in the audit. Redirects are followed within the
    server of `base_url` only.
    """

    def __init__(
        self,
        base_url: str,
        *,
        auth: tuple[str, str] | httpx.Auth | None = None,
        token: str | None = None,
        timeout: float = TIMEOUT,
        http: httpx.Client | None = None,
    ) -> None:
        self._connection = Connection(base_url, auth=auth, token=token, timeout=timeout, http=http)
        self._request = self._connection.request

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless `http` was given."""
        self._connection.close()

    def list_tasks(self, *, limit: int = 100, cursor: str | None = None, **filters: Unpack[ListFilters]) -> Page:
        """One page of the tasks that match, the newest first."""
        return read_page(self._request("GET", "", {**filters, "limit": limit, "cursor": cursor}))

    def iter_tasks(self, *, limit: int = 100, **filters: Unpack[ListFilters]) -> Iterator[TaskOut]:
        """All tasks that match, the newest first; `limit` is the size of one page."""
        cursor: str | None = None
        while True:
            page = self.list_tasks(limit=limit, cursor=cursor, **filters)
            yield from page.tasks
            if page.next_cursor is None:
                return
            cursor = page.next_cursor

    def get_task(self, task_id: str, *, logs_after: int | None = None) -> TaskDetailOut:
        """One task with its log, error and timeline; raises `TaskNotFoundError`.

        `logs_after`: only log lines with a greater `seq`, to follow a log.
        """
        return read(TaskDetailOut, self._request("GET", f"/{task_segment(task_id)}", {"logs_after": logs_after}))

    def get_trace(self, task_id: str) -> TraceOut:
        """The waits and attempts of a task with the spans inside them; raises `TaskNotFoundError`."""
        return read(TraceOut, self._request("GET", f"/{task_segment(task_id)}/trace"))

    def retry_task(
        self,
        task_id: str,
        *,
        rerun: bool | None = None,
        reason: str | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> TaskOut:
        """The new task that retries a finished one; raises `TaskStateError`. `rerun`: also a successful one.

        `arguments`: other values for some parameters, as JSON data; `InvalidInputError` if an annotation forbids one.
        """
        body = {"arguments": dict(arguments)} if arguments else None
        params = {"rerun": rerun, "reason": reason}
        return read(TaskOut, self._request("POST", f"/{task_segment(task_id)}/retry", params, body))

    def get_arguments(self, task_id: str) -> ArgumentsOut:
        """The parameters of a task's function, with the stored arguments where the administration displays them."""
        return read(ArgumentsOut, self._request("GET", f"/{task_segment(task_id)}/arguments"))

    def cancel_task(self, task_id: str, *, reason: str | None = None) -> TaskOut:
        """Cancel a live task; raises `TaskStateError`."""
        return read(TaskOut, self._request("POST", f"/{task_segment(task_id)}/cancel", {"reason": reason}))

    def ask_for_stack(self, task_id: str, *, reason: str | None = None) -> TaskOut:
        """Have the stack of a running task written into its log, within about a second; raises `TaskStateError`."""
        return read(TaskOut, self._request("POST", f"/{task_segment(task_id)}/stack", {"reason": reason}))

    def tick(self, *, seconds: float | None = None) -> TickOut:
        """Let what is due run in the process that answers, for at most `seconds` (default 25), and wait for that."""
        return read(TickOut, self._request("POST", "/tick", {"seconds": seconds}))

    def list_failures(
        self,
        *,
        order: str | None = None,
        show_ignored: bool | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        **filters: Unpack[Filters],
    ) -> FailuresOut:
        """Groups of failures. `order`: `last`, `open`, `count`, `recent` or `appeared`."""
        given = {**filters, "order": order, "show_ignored": show_ignored, "limit": limit, "cursor": cursor}
        return read(FailuresOut, self._request("GET", "/failures", given))

    def get_failure(self, fingerprint: str, *, ended_since: Moment | None = None) -> FailureDetailOut:
        """One group of failures, with the error of its newest task; raises `ClientError` if no task has it."""
        path = f"/failures/{segment(fingerprint, 'group')}"
        return read(FailureDetailOut, self._request("GET", path, {"ended_since": ended_since}))

    def ignore_failure(
        self, fingerprint: str, *, until: str | None = None, reason: str | None = None
    ) -> FailureGroupOut:
        """Ignore a group until a moment, or for a time from now (`24h`), or until it rises."""
        path = f"/failures/{segment(fingerprint, 'group')}/ignore"
        return read(FailureGroupOut, self._request("POST", path, {"until": until, "reason": reason}))

    def show_failure(self, fingerprint: str, *, reason: str | None = None) -> FailureGroupOut:
        """Ignore a group no more."""
        path = f"/failures/{segment(fingerprint, 'group')}/ignore"
        return read(FailureGroupOut, self._request("DELETE", path, {"reason": reason}))

    def list_running(self, *, limit: int | None = None) -> RunningOut:
        """The tasks that run now on all instances, those that have run longest first."""
        return read(RunningOut, self._request("GET", "/running", {"limit": limit}))

    def list_types(self, *, window: Literal["1h", "24h"] | None = None) -> TaskTypesOut:
        """The types of tasks, the one with the greatest share of the run time first."""
        return read(TaskTypesOut, self._request("GET", "/types", {"window": window}))

    def get_type(self, name: str, *, window: Literal["1h", "24h", "7d"] | None = None) -> TypeDetailOut:
        """One type: its figures, its slowest tasks, and its options; raises `ClientError` if nothing is known of it."""
        return read(TypeDetailOut, self._request("GET", f"/types/{segment(name, 'type')}", {"window": window}))

    def get_stats(self, *, exact: bool | None = None, **filters: Unpack[Filters]) -> StatsOut:
        """How many of the tasks that match are in each state. `exact`: count without a limit."""
        return read(StatsOut, self._request("GET", "/stats", {**filters, "exact": exact}))

    def bulk_retry(
        self,
        task_ids: Sequence[str] | None = None,
        *,
        limit: int | None = None,
        dry_run: bool | None = None,
        reason: str | None = None,
        idempotency_key: str | None = None,
        **filters: Unpack[Filters],
    ) -> BulkRetryOut:
        """Retry the tasks with these ids, or those that match. `dry_run`: only count them."""
        params = {**filters, "limit": limit, "dry_run": dry_run, "reason": reason}
        return read(BulkRetryOut, self._request("POST", "/bulk-retry", params, _ids(task_ids), key=idempotency_key))

    def retry_failed(
        self,
        *,
        limit: int | None = None,
        dry_run: bool | None = None,
        reason: str | None = None,
        idempotency_key: str | None = None,
        **filters: Unpack[Filters],
    ) -> BulkRetryOut:
        """Retry the failed tasks that match and were not retried yet. `dry_run`: only count them."""
        params = {**filters, "limit": limit, "dry_run": dry_run, "reason": reason}
        return read(BulkRetryOut, self._request("POST", "/retry-failed", params, key=idempotency_key))

    def bulk_cancel(
        self,
        task_ids: Sequence[str] | None = None,
        *,
        limit: int | None = None,
        dry_run: bool | None = None,
        reason: str | None = None,
        idempotency_key: str | None = None,
        **filters: Unpack[Filters],
    ) -> BulkCancelOut:
        """Cancel the tasks with these ids, or the live ones that match. `dry_run`: only count them."""
        params = {**filters, "limit": limit, "dry_run": dry_run, "reason": reason}
        return read(BulkCancelOut, self._request("POST", "/bulk-cancel", params, _ids(task_ids), key=idempotency_key))

    def delete_history(
        self,
        *,
        before: Moment | None = None,
        limit: int | None = None,
        dry_run: bool | None = None,
        reason: str | None = None,
        idempotency_key: str | None = None,
        **filters: Unpack[Filters],
    ) -> DeletedOut:
        """Delete the finished tasks that match, for good. `before`: those that ended before it. `dry_run`: count."""
        params = {**filters, "before": before, "limit": limit, "dry_run": dry_run, "reason": reason}
        return read(DeletedOut, self._request("DELETE", "/history", params, key=idempotency_key))

    def list_operations(
        self, *, kind: str | None = None, status: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> OperationPage:
        """One page of the bulk operations, the newest first."""
        params = {"kind": kind, "status": status, "limit": limit, "cursor": cursor}
        response = self._request("GET", "/operations", params)
        return OperationPage(read(list[OperationOut], response), response.headers.get("X-Next-Cursor"))

    def get_operation(self, operation_id: str) -> OperationOut:
        """One bulk operation: what was asked for, and how far it is; raises `OperationNotFoundError`."""
        return read(OperationOut, self._request("GET", f"/operations/{segment(operation_id, 'operation')}"))

    def list_results(self, operation_id: str, *, limit: int = 100, cursor: str | int | None = None) -> ResultPage:
        """One page of the results of a bulk operation, in their order; raises `OperationNotFoundError`."""
        path = f"/operations/{segment(operation_id, 'operation')}/results"
        response = self._request("GET", path, {"limit": limit, "cursor": cursor})
        return ResultPage(read(list[OperationItemOut], response), response.headers.get("X-Next-Cursor"))

    def list_objectives(self) -> list[ObjectiveOut]:
        """The objectives of task types, and how much of their error budgets is left."""
        return read(list[ObjectiveOut], self._request("GET", "/objectives"))

    def list_queues(self) -> list[QueueOut]:
        """The queues of the answering instance."""
        return read(list[QueueOut], self._request("GET", "/queues"))

    def configure_queue(
        self,
        name: str,
        *,
        concurrency: int | EllipsisType | None = ...,
        max_size: int | EllipsisType | None = ...,
        reason: str | None = None,
    ) -> QueueOut:
        """Change the given limits of a queue; `None` removes one."""
        given = {"concurrency": concurrency, "max_size": max_size}
        changes = {limit: value for limit, value in given.items() if value is not ...}
        path = f"/queues/{segment(name, 'queue')}"
        return read(QueueOut, self._request("PATCH", path, {"reason": reason}, changes))

    def pause_queue(self, name: str, *, reason: str | None = None) -> QueueOut:
        """Start no further task of this queue."""
        return read(QueueOut, self._request("POST", f"/queues/{segment(name, 'queue')}/pause", {"reason": reason}))

    def resume_queue(self, name: str, *, reason: str | None = None) -> QueueOut:
        """Start tasks of this queue again."""
        return read(QueueOut, self._request("POST", f"/queues/{segment(name, 'queue')}/resume", {"reason": reason}))

    def list_schedules(self) -> list[ScheduleOut]:
        """The recurring schedules, then the planned runs."""
        return read(list[ScheduleOut], self._request("GET", "/schedules"))

    def run_schedule(self, name: str, *, reason: str | None = None) -> TaskOut:
        """Make one run of a schedule now; returns its task."""
        return read(TaskOut, self._request("POST", f"/schedules/{segment(name, 'schedule')}/run", {"reason": reason}))

    def pause_schedule(self, name: str, *, reason: str | None = None) -> ScheduleOut:
        """Stop a schedule from firing, on all instances."""
        return read(
            ScheduleOut,
            self._request("POST", f"/schedules/{segment(name, 'schedule')}/pause", {"reason": reason}),
        )

    def resume_schedule(self, name: str, *, reason: str | None = None) -> ScheduleOut:
        """Let a schedule fire again."""
        return read(
            ScheduleOut,
            self._request("POST", f"/schedules/{segment(name, 'schedule')}/resume", {"reason": reason}),
        )

    def list_audit(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        outcome: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        task_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> AuditPage:
        """One page of the audit, the newest entry first: who did what, refused attempts included."""
        params: dict[str, Any] = {"actor": actor, "action": action, "outcome": outcome, "since": since}
        params |= {"until": until, "task_id": task_id, "limit": limit, "cursor": cursor}
        response = self._request("GET", "/audit", params)
        return AuditPage(read(list[AuditOut], response), response.headers.get("X-Next-Cursor"))

    def list_instances(self) -> list[InstanceOut]:
        """The processes that share the backend."""
        return read(list[InstanceOut], self._request("GET", "/instances"))

    def list_releases(self) -> list[ReleaseOut]:
        """When each release of the application was first seen, the oldest first."""
        return read(list[ReleaseOut], self._request("GET", "/releases"))

    def get_overview(self, *, window: Literal["15m", "1h", "6h", "24h"] | None = None) -> OverviewOut:
        """Rates, shares and percentiles over a window."""
        return read(OverviewOut, self._request("GET", "/overview", {"window": window}))

    def get_metrics(self, *, accept: str = "text/plain") -> str:
        """The metrics as text, in the format that `accept` names."""
        return read_text(self._request("GET", "/metrics", accept=accept))

    def get_session(self) -> SessionOut:
        """The user of this client, and what it may do."""
        return read(SessionOut, self._request("GET", "/session"))

    def get_health(self) -> HealthOut:
        """Whether the instance is ready, and if not, why."""
        return read(HealthOut, self._request("GET", "/health"), also={503})

    def get_liveness(self) -> ProbeOut:
        """Whether the process answers."""
        return read(ProbeOut, self._request("GET", "/livez"))

    def get_readiness(self) -> ProbeOut:
        """Whether the instance takes tasks and reaches its backend."""
        return read(ProbeOut, self._request("GET", "/readyz"), also={503})

    def get_events(self, *, after: str | None = None, reconnect: bool = True) -> Generator[Event]:
        """The changes as they happen, without an end; close the generator to leave.

        `after`: the id of the last event that is known. A lost connection is made anew, and continues after the last
        event, so no change is missed. `reconnect`: false to end with the connection.
        """
        return self._connection.follow(after, reconnect=reconnect)


def _ids(task_ids: Sequence[str] | None) -> dict[str, list[str]] | None:
    return None if task_ids is None else {"task_ids": list(task_ids)}
