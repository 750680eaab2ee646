"""The tasks in a backend, read without an application that runs: the same answers as those of its API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from fastapi import HTTPException

from taskflow_otel import backends
from taskflow_otel.backends import Backend
from taskflow_otel.errors import ConfigurationError, TaskNotFoundError
from taskflow_otel.model.query import Loss, TaskQuery
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import Source
from taskflow_otel.runtime.passwords import without_passwords
from taskflow_otel.web.answers import instance_out, stats_out, task_detail, task_out
from taskflow_otel.web.params import task_filter
from taskflow_otel.wire.figures import StatsOut
from taskflow_otel.wire.fleet import InstanceOut
from taskflow_otel.wire.tasks import TaskDetailOut, TaskOut


def open_backend(where: str, namespace: str | None = None) -> Backend:
    """The backend that a URL or path names; raises `ConfigurationError` if it names no backend."""
    scheme = where.partition("://")[0].partition("+")[0] if "://" in where else ""
    match scheme:
        case "postgresql" | "postgres":
            return backends.PostgresBackend(where, namespace=namespace)
        case "mysql" | "mariadb":
            return backends.MySQLBackend(where, namespace=namespace)
        case "redis" | "rediss" | "unix":
            return backends.RedisBackend(where, namespace=namespace)
        case "" | "sqlite":
            path = Path(where.removeprefix("sqlite:///"))
            if not path.is_file():
                raise ConfigurationError(f"there is no database {str(path)!r}")
            return backends.SqliteBackend(path, namespace=namespace)
        case _:
            raise ConfigurationError(
                f"--backend must be a postgresql, mysql or redis URL, or a path, not {without_passwords(where)!r}"
            )


class Ledger:
    """Reads a backend with the methods of the client; open it with `with`.

    No instance is registered and no task is taken over. Arguments of tasks are not shown.
    """

    def __init__(self, where: str, namespace: str | None = None) -> None:
        self._backend = open_backend(where, namespace)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.__enter__()
        try:
            self._runner.run(self._backend.open())
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._runner.run(self._backend.close())
        finally:
            self._runner.close()

    def iter_tasks(self, *, limit: int, **filters: Any) -> Iterator[TaskOut]:
        """The tasks that match, the newest first, in pages of `limit`."""
        query, cursor = replace(query_of(filters), limit=limit), None
        while True:
            page = self._runner.run(self._backend.page(replace(query, cursor=cursor)))
            for record in page.records:
                yield task_out(record, with_args=False)
            if page.next_cursor is None:
                return
            cursor = page.next_cursor

    def get_task(self, task_id: str, *, logs_after: int | None = None) -> TaskDetailOut:
        """One task with its log; `logs_after`: only lines with a greater `seq`. Raises `TaskNotFoundError`."""
        record = self._runner.run(self._backend.get(task_id))
        if record is None:
            raise TaskNotFoundError(task_id)
        lines = self._runner.run(self._backend.logs(task_id))
        if logs_after is not None:
            lines = [line for line in lines if line.seq > logs_after]
        return task_detail(record, lines, with_args=False)

    def get_stats(self, **filters: Any) -> StatsOut:
        """How many tasks that match are in each state."""
        return stats_out(self._runner.run(self._backend.counts(query_of(filters))))

    def list_instances(self) -> list[InstanceOut]:
        """The processes that share the backend."""
        return [instance_out(one, "", Loss()) for one in self._runner.run(self._backend.instances())]


def query_of(filters: dict[str, Any]) -> TaskQuery:
    """The query that filters of the API mean; raises `ConfigurationError` for one that cannot be understood."""
    given = dict(filters)
    for name, kind in (("status", TaskStatus), ("source", Source)):
        if name in given:
            given[name] = _word(name, given[name], kind)
    with understood():
        return task_filter(**given)


@contextmanager
def understood() -> Iterator[None]:
    """Raise `ConfigurationError` for a parameter to which the API would answer that it cannot be understood."""
    try:
        yield
    except HTTPException as error:
        raise ConfigurationError(str(error.detail)) from None


def _word(name: str, text: str, kind: type[TaskStatus | Source]) -> TaskStatus | Source:
    for one in kind:
        if one.value == text:
            return one
    raise ConfigurationError(f"{name} must be one of {', '.join(one.value for one in kind)}, not {text!r}")
