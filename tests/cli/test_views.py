"""`taskflow-otel stats`, `queues`, `types`, `schedules`, `instances` and `purge`, against a real server."""

from __future__ import annotations

import json

import pytest

from taskflow_otel.engine.admin.work import DeleteWork, refused
from taskflow_otel.errors import TaskStateError
from taskflow_otel.model.operation import Operation, OperationItem
from taskflow_otel.model.status import TaskStatus
from tests.cli.test_remote import AppOf, Serving, command
from tests.web.house import House, make_record


async def test_the_application_is_shown_as_tables_and_as_json(app_of: AppOf, engine: House, serving: Serving) -> None:
    engine.put(make_record(status=TaskStatus.FAILED))
    engine.put(make_record("other"))
    async with serving(app_of()) as served:
        url = f"{served.url}/tasks"
        stats = await command("stats", "--url", url)
        assert (stats.returncode, stats.stderr) == (0, "")
        assert dict(line.split(None, 1) for line in stats.stdout.splitlines())["failed"] == "1"
        one = await command("stats", "--func-name", "other", "--json", "--url", url)
        assert json.loads(one.stdout)["total"] == 1

        queues = await command("queues", "--url", url)
        head, first, *_ = queues.stdout.splitlines()
        assert head.split()[:6] == ["name", "running", "ready", "in_pool", "delayed", "claimers"]
        assert first.split()[:2] == ["default", "0"]
        types = await command("types", "--window", "24h", "--json", "--url", url)
        assert [json.loads(line)["failure_share"] for line in types.stdout.splitlines()][:2] == [0.0, 1.0]
        instances = await command("instances", "--json", "--url", url)
        assert sum(json.loads(line)["answering"] for line in instances.stdout.splitlines()) == 1
        schedules = await command("schedules", "--url", url)
        assert (schedules.returncode, schedules.stdout.split()[0]) == (0, "name")


async def test_finished_tasks_are_counted_and_then_deleted(app_of: AppOf, engine: House, serving: Serving) -> None:
    engine.put(make_record(status=TaskStatus.FAILED))
    kept = engine.put(make_record("other"))
    async with serving(app_of()) as served:
        url = f"{served.url}/tasks"
        asked = ("purge", "--before", "1s", "--status", "failed", "--url", url)
        counted = await command(*asked, "--dry-run")
        assert (counted.returncode, counted.stdout) == (0, "1 tasks would be deleted\n")
        done = await command(*asked, "--reason", "old")
        assert (done.returncode, done.stdout.startswith("deleted 1 of 1 tasks")) == (0, True)
        listed = await command("ls", "--json", "--url", url)
        assert [json.loads(line)["task_id"] for line in listed.stdout.splitlines()] == [kept.task_id]
        refused = await command("purge", "--url", url)
        assert (refused.returncode, "--before" in refused.stderr) == (2, True)


async def test_a_deletion_that_leaves_a_task_or_fails_ends_with_one(
    app_of: AppOf, engine: House, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, *_ = (engine.put(make_record(status=TaskStatus.FAILED)).task_id for _ in range(2))
    do = DeleteWork.do

    async def refuse_one(
        self: DeleteWork, operation: Operation, items: list[OperationItem], *, repeated: bool
    ) -> list[OperationItem]:
        done = await do(self, operation, [item for item in items if item.task_id != kept], repeated=repeated)
        return [*done, *(refused(item, TaskStateError("no")) for item in items if item.task_id == kept)]

    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    async with serving(app_of()) as served:
        asked = ("purge", "--before", "1s", "--url", f"{served.url}/tasks")
        monkeypatch.setattr(DeleteWork, "do", refuse_one)
        done = await command(*asked)
        assert (done.returncode, done.stdout) == (1, "deleted 1 of 2 tasks (done)\n")
        monkeypatch.setattr(DeleteWork, "do", fail)
        failed = await command(*asked, "--json")
        assert (failed.returncode, json.loads(failed.stdout)["status"]) == (1, "failed")
