"""`retry`, `cancel` and `purge` on a backend: what runs carries them out, or what starts next."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from taskflow_otel import TaskManager, TaskStatus
from taskflow_otel.backends import Backend, SqliteBackend
from taskflow_otel.backends.admin import KeepsAudit, KeepsOperations
from taskflow_otel.backends.pool import KeepsPool
from taskflow_otel.cli.ledger import open_backend
from taskflow_otel.cli.main import main
from taskflow_otel.cli.orders import METHOD, Orders
from taskflow_otel.engine.admin.run import OperationRun
from taskflow_otel.model.audit import AuditEntry, AuditQuery
from taskflow_otel.model.operation import OperationQuery
from taskflow_otel.reconcile.compare import reconcile
from tests.managers import Gate, finish, started
from tests.waiting import eventually

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(params=["sqlite", "postgres_url", "mariadb_url", "redis_url"])
async def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty backend of each kind, as `--backend` names it."""
    if request.param != "sqlite":
        return cast(str, request.getfixturevalue(request.param))
    backend = SqliteBackend(tmp_path / "tasks.db")
    await backend.open()
    await backend.close()
    return str(tmp_path / "tasks.db")


@dataclass
class Shop:
    """An application on a backend: one task that fails until it is mended, and one that waits at a gate."""

    manager: TaskManager
    charge: Callable[[str], Awaitable[None]]
    wait: Callable[[], Awaitable[None]]
    gate: Gate
    runs: list[str]

    @classmethod
    def of(cls, backend: Backend, *, mended: bool = False) -> Shop:
        """A new process of the application."""
        manager, gate, runs = TaskManager(snapshot_backend=backend), Gate(), list[str]()

        @manager.task(persist=True)
        async def charge(order: str) -> None:
            runs.append(order)
            if not mended and len(runs) == 1:
                raise ConnectionError("no answer")

        @manager.task(persist=True)
        async def wait() -> None:
            await gate.run()

        return cls(manager, charge, wait, gate, runs)


@dataclass
class Command:
    """The command on a backend."""

    where: str
    captured: pytest.CaptureFixture[str]

    async def __call__(self, *arguments: str, exits: int = 0) -> tuple[list[str], str]:
        """Run it; return the lines that it has printed, and what it has said beside them."""
        self.captured.readouterr()
        # It has an event loop of its own.
        status = await asyncio.to_thread(main, [*arguments, "--backend", self.where])
        out, err = self.captured.readouterr()
        assert status == exits, out + err
        return out.splitlines(), err


@pytest.fixture
def command(where: str, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command on the backend of this test."""
    return Command(where, capsys)


async def audit_of(backend: Backend) -> list[AuditEntry]:
    assert isinstance(backend, KeepsAudit)
    return (await backend.audit_store.page(AuditQuery())).entries


async def test_an_instance_that_runs_carries_it_out(where: str, command: Command) -> None:
    shop = Shop.of(backend := open_backend(where))
    async with started(shop.manager):
        failed = await shop.manager.enqueue(shop.charge, "order 7")
        assert (await finish(shop.manager, failed)).status is TaskStatus.FAILED
        running = await shop.manager.enqueue(shop.wait)
        await shop.gate.entered.wait()

        asked = ("retry", failed, running, UNKNOWN, "--reason", "it is mended", "--json")
        [line], refused = await command(*asked, exits=1)
        made = json.loads(line)
        assert (made["retry_of"], made["source"]) == (failed, "retry")
        assert [one.partition(":")[0] for one in refused.splitlines()] == [running, UNKNOWN]
        assert "only a finished task can be retried" in refused
        retried = await finish(shop.manager, made["task_id"])
        assert (retried.status, shop.runs) == (TaskStatus.SUCCESS, ["order 7", "order 7"])
        # The instance has made it, as it makes every task.
        assert {entry.instance for entry in retried.timeline} == {(await shop.manager.get(failed)).instance}

        [line], _ = await command("cancel", running)
        assert line.startswith(running)
        assert (await finish(shop.manager, running)).status is TaskStatus.CANCELLED
        assert shop.gate.cancelled
        _, refused = await command("cancel", running, exits=1)
        assert "is cancelled already" in refused
        _, refused = await command("retry", failed, exits=1)
        assert retried.task_id in refused
        await shop.manager.metrics_page.refresh()
        page = shop.manager.metrics_page.render("text/plain")[0].decode()
        assert await reconcile(backend, metrics={"page": page}) == []

        [line], _ = await command("purge", "--before", "1ms", "--status", "failed", "--dry-run")
        assert line == "1 tasks would be deleted"
        [line], _ = await command("purge", "--before", "1ms", "--status", "failed", "--reason", "old")
        assert line == "deleted 1 of 1 tasks (done)"
        assert {one.task_id for one in await shop.manager.find()} >= {retried.task_id, running}
        entries = await audit_of(backend)
    assert {entry.method for entry in entries} == {METHOD}
    assert [(entry.action, entry.outcome, entry.reason) for entry in reversed(entries)] == [
        ("bulk-retry", "done", "it is mended"),
        ("bulk-cancel", "done", None),
        ("bulk-cancel", "refused", None),
        ("bulk-retry", "done", None),
        ("delete-history", "done", "old"),
    ]


async def test_without_an_instance_the_next_one_that_starts_carries_it_out(
    where: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Shop.of(backend := open_backend(where))
    async with started(first.manager):
        failed = await first.manager.enqueue(first.charge, "order 7")
        later = await first.manager.enqueue(first.wait, delay=3600.0)
        assert (await finish(first.manager, failed)).status is TaskStatus.FAILED
        done = await first.manager.enqueue(first.charge, "order 8")
        assert (await finish(first.manager, done)).status is TaskStatus.SUCCESS
    monkeypatch.setenv("TASKFLOW_RUN", "none")
    async with started((gives := Shop.of(backend)).manager):
        pooled = await gives.manager.enqueue(gives.wait)
        assert isinstance(backend, KeepsPool)
        await eventually(lambda: _holds(backend), "the task is in the pool")
    monkeypatch.delenv("TASKFLOW_RUN")

    out, said = await command("retry", failed)
    assert (out, said.count("no instance runs, and the next one that starts does it")) == ([], 1)
    out, said = await command("cancel", later, pooled)
    assert (out, said.count("no instance runs")) == ([], 1)
    # What is finished needs nobody who owns it.
    [line], _ = await command("purge", "--before", "1ms", "--func-name", "charge", "--status", "success", "--wait")
    assert line == "deleted 1 of 1 tasks (done)"

    second = Shop.of(backend, mended=True)
    async with started(second.manager):
        await eventually(lambda: _retried(second.manager, failed), "the retry")
        made = (await second.manager.get(failed)).retried_by
        assert made is not None
        assert (await finish(second.manager, made)).status is TaskStatus.SUCCESS
        for one in (later, pooled):
            assert (await finish(second.manager, one)).status is TaskStatus.CANCELLED
        assert (second.runs, second.gate.entered.is_set()) == (["order 7"], False)
        assert {one.task_id for one in await second.manager.find()} == {failed, made, later, pooled}
        assert isinstance(backend, KeepsOperations)
        await eventually(lambda: _ended(backend), "the end of each operation")
        assert [one.succeeded for one in await backend.operation_store.page(OperationQuery())] == [1, 2, 1]


async def _holds(backend: KeepsPool) -> bool:
    return bool(await backend.pool_store.depth(["default"]))


async def _retried(manager: TaskManager, task_id: str) -> bool:
    return (await manager.get(task_id)).retried_by is not None


async def _ended(backend: KeepsOperations) -> bool:
    return all(one.ended_at for one in await backend.operation_store.page(OperationQuery()))


@pytest.mark.parametrize("where", ["sqlite"], indirect=True)
async def test_a_command_that_dies_before_its_order_is_whole_has_done_nothing(
    where: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop.of(backend := open_backend(where))
    async with started(shop.manager):
        failed = await shop.manager.enqueue(shop.charge, "order 7")
        await finish(shop.manager, failed)

    async def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Orders, "_note", dies)
    await command("retry", failed, exits=130)
    await command("purge", "--before", "1ms", exits=130)
    async with started((second := Shop.of(backend)).manager):
        await second.manager.engine.operations.tick()
        record = await second.manager.get(failed)
        assert (record.retried_by, second.runs, await audit_of(backend)) == (None, [], [])


@pytest.mark.parametrize("where", ["sqlite"], indirect=True)
async def test_a_deletion_that_another_takes_over_is_refused_to_the_command_and_ends_once(
    where: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop.of(backend := open_backend(where))
    finish_operation, taken = OperationRun.finish, list[str]()

    async def nobody(_: Orders) -> bool:
        return False

    async def late(run: OperationRun) -> None:
        if not taken:
            taken.append(run.operation.operation_id)
            assert isinstance(backend, KeepsOperations)
            assert await backend.operation_store.claim(taken[0], run.operation.token, "another") is not None
        await finish_operation(run)

    async with started(shop.manager):
        failed = await shop.manager.enqueue(shop.charge, "order 7")
        await finish(shop.manager, failed)
        # As if the command could not see the instance, which then takes the operation over from `another`.
        monkeypatch.setattr(Orders, "_anyone", nobody)
        monkeypatch.setattr(OperationRun, "finish", late)
        [line], _ = await command("purge", "--before", "1ms", "--wait")
        assert line == "deleted 1 of 1 tasks (done)"
        assert await shop.manager.find() == []
        operation = await shop.manager.engine.operations.get(taken[0])
        assert operation.token >= 3
