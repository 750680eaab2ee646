"""Five small changes of the library, as a person makes them: the files that they touch, and a proof that they work.

`docs/contributing.md` names the same files. Each change is applied to a copy of the project, where its probe and the
tests that guard its subject must pass. A text that an edit looks for and does not find fails the test: it is then
written anew, for the code as it has become.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Edit:
    """A text in place of another one in a file of the project."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Change:
    """A change: new files and edits, the commands that generate files, a probe, and the tests that must pass."""

    title: str
    edits: tuple[Edit, ...]
    probe: str
    new: dict[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()

    @property
    def files(self) -> set[str]:
        """What a person writes."""
        return {*self.new, *(edit.path for edit in self.edits)}

    def apply(self, project: Path) -> None:
        """Write the change into a copy of the project."""
        for name, text in self.new.items():
            (project / name).write_text(text)
        for edit in self.edits:
            path = project / edit.path
            before = path.read_text()
            assert before.count(edit.old) == 1, f"{edit.path} has changed where {self.title!r} edits it: {edit.old!r}"
            path.write_text(before.replace(edit.old, edit.new))


EXPORTER = Change(
    "A new exporter",
    new={
        "taskflow_otel/exporters/tally.py": '''"""Counts the transitions of tasks."""

from __future__ import annotations

from collections import Counter

from taskflow_otel.bus import Exporter
from taskflow_otel.model.events import LifecycleEvent


class TallyExporter(Exporter):
    """How often each transition happened in this process."""

    name = "tally"

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def on_lifecycle(self, event: LifecycleEvent) -> None:
        """Count one."""
        self.counts[event.transition] += 1
'''
    },
    edits=(
        Edit(
            "taskflow_otel/manager.py",
            "        self._bus = ObserverBus(\n            [\n",
            "        self.tally = TallyExporter()\n"
            "        self._bus = ObserverBus(\n            [\n                self.tally,\n",
        ),
        Edit(
            "taskflow_otel/manager.py",
            "from taskflow_otel.exporters.telemetry import Telemetry\n",
            "from taskflow_otel.exporters.tally import TallyExporter\n"
            "from taskflow_otel.exporters.telemetry import Telemetry\n",
        ),
    ),
    probe="""
from taskflow_otel import TaskManager
from tests.managers import finish, started


async def test_the_transitions_of_a_task_are_counted() -> None:
    manager = TaskManager()

    @manager.task()
    async def job() -> None:
        pass

    async with started(manager):
        await finish(manager, await manager.enqueue(job))
        assert manager.tally.counts == {"enqueued": 1, "started": 1, "succeeded": 1}
""",
    commands=("-m tests.rooms",),
    tests=("tests/test_rooms.py",),
)

BACKEND = Change(
    "A new backend",
    new={
        "taskflow_otel/backends/plain.py": '''"""Tasks in a dictionary: the smallest backend."""

from __future__ import annotations

from collections.abc import Sequence

from taskflow_otel.backends.base import AppendLogs, Applied, Backend, Change, Outcome
from taskflow_otel.model.record import TaskRecord


class PlainBackend(Backend):
    """Stores and finds tasks."""

    name = "plain"
    durable = True

    def __init__(self) -> None:
        self._tasks: dict[str, TaskRecord] = {}

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        """Take whatever comes."""
        for change in changes:
            if not isinstance(change, AppendLogs):
                self._tasks[change.record.task_id] = change.record.copy()
        return [Applied(Outcome.APPLIED) for _ in changes]

    async def get(self, task_id: str) -> TaskRecord | None:
        """One task, or `None`."""
        task = self._tasks.get(task_id)
        return None if task is None else task.copy()
'''
    },
    edits=(
        Edit("pyproject.toml", '\nredis = ["redis', '\nplain = ["a-driver>=1"]\nredis = ["redis'),
        Edit("pyproject.toml", "taskflow-otel[otel,redis,", "taskflow-otel[otel,plain,redis,"),
        Edit(
            "tests/backends/conftest.py",
            "\nFACTORIES: ",
            "\ndef _plain(request: pytest.FixtureRequest) -> BackendFactory:\n"
            "    from taskflow_otel.backends.plain import PlainBackend\n\n"
            "    return PlainBackend\n\n\nFACTORIES: ",
        ),
        Edit(
            "tests/backends/conftest.py", '    "memory": _memory,\n', '    "memory": _memory,\n    "plain": _plain,\n'
        ),
    ),
    probe="""
import pytest

from taskflow_otel.testing.backends import BackendConformance
from tests.backends.conftest import FACTORIES, backend_factory

NOT_YET = {name for name in dir(BackendConformance) if name.startswith("test_")} - {
    "test_it_fulfils_the_protocol",
    "test_a_task_comes_back_as_it_was_stored",
    "test_an_update_writes_every_mutable_field",
}


@pytest.mark.parametrize("backend_factory", ["plain"], indirect=True)
class TestPlain(BackendConformance):
    locals().update(dict.fromkeys(NOT_YET))
""",
    commands=("-m tests.rooms",),
    tests=("tests/test_rooms.py", "tests/test_project.py::test_the_extra_all_names_every_feature"),
)

REASON = Change(
    "A new reason",
    edits=(
        Edit(
            "taskflow_otel/model/vocabulary.py",
            '    QUEUE_FULL = (\n        "queue_full",\n',
            '    QUOTA = "quota", "The queue of this customer was full.", "over its quota"\n'
            '    QUEUE_FULL = (\n        "queue_full",\n',
        ),
        Edit(
            "taskflow_otel/engine/intake.py",
            "Reason.QUEUE_FULL",
            "Reason.QUEUE_FULL if queue.max_size else Reason.QUOTA",
        ),
    ),
    commands=(
        "-m taskflow_otel.web.vocabulary_script",
        "-m taskflow_otel.exporters.signals_doc > docs/telemetry.md",
    ),
    probe="""
from pathlib import Path

import pytest

import taskflow_otel
from taskflow_otel import QueueConfig, QueueFullError, TaskManager
from taskflow_otel.model.query import TaskQuery
from tests.managers import started


async def test_a_refused_task_has_the_reason_and_the_page_and_the_documentation_explain_it() -> None:
    manager = TaskManager(queues={"small": QueueConfig(max_size=0)})

    @manager.task(queue="small")
    async def job() -> None:
        pass

    async with started(manager):
        with pytest.raises(QueueFullError):
            await manager.enqueue(job)
        [record] = (await manager.engine.lookup.page(TaskQuery())).records
        assert record.reason == "quota"
    package = Path(taskflow_otel.__file__).parent
    assert "over its quota" in (package / "web/static/vocabulary.js").read_text()
    assert "The queue of this customer was full." in (package.parent / "docs/telemetry.md").read_text()
""",
    tests=(
        "tests/model/test_vocabulary.py",
        "tests/web/test_vocabulary_script.py",
        "tests/exporters/test_signals_doc.py",
    ),
)

OPTION = Change(
    "A new option of `@task`",
    edits=(
        Edit("taskflow_otel/model/task_options.py", "    eager: bool\n", "    eager: bool\n    silent: bool\n"),
        Edit(
            "taskflow_otel/model/task_options.py",
            '    "eager": TaskOption(default=False, check=flag),\n',
            '    "eager": TaskOption(default=False, check=flag),\n'
            '    "silent": TaskOption(default=False, check=flag),\n',
        ),
        Edit(
            "taskflow_otel/model/task_options.py",
            "    eager: bool = False\n",
            "    eager: bool = False\n    silent: bool = False\n",
        ),
        Edit(
            "taskflow_otel/manager.py",
            "`eager`: start at `add_task()`.",
            "`eager`: start at `add_task()`. `silent`: no log.",
        ),
        Edit(
            "taskflow_otel/engine/task_output.py",
            "        count = task.log_count\n",
            "        if task.definition.config.silent:\n            return\n        count = task.log_count\n",
        ),
    ),
    probe="""
import inspect

from taskflow_otel import TaskManager, get_task_context, task_log
from tests.managers import finish, started


async def test_a_silent_task_stores_no_log() -> None:
    manager = TaskManager()

    @manager.task(silent=True)
    async def quiet() -> None:
        task_log("said")

    @manager.task()
    async def loud() -> None:
        task_log("said")

    async with started(manager):
        for job, lines in ((quiet, 0), (loud, 1)):
            record = await finish(manager, await manager.enqueue(job))
            assert len(await manager.engine.lookup.logs(record.task_id)) == lines
    assert inspect.signature(TaskManager.task).parameters["silent"].default is False
""",
    tests=("tests/model/test_task_options.py",),
)

ENDPOINT = Change(
    "A new REST endpoint",
    edits=(
        Edit(
            "taskflow_otel/wire/tasks.py",
            "\nclass TaskDetailOut(",
            "\nclass AttemptsOut(BaseModel):\n"
            '    """How often a task was tried."""\n\n'
            "    task_id: str\n    attempts: int\n\n\nclass TaskDetailOut(",
        ),
        Edit("taskflow_otel/web/tasks_api.py", "import TaskDetailOut, ", "import AttemptsOut, TaskDetailOut, "),
        Edit(
            "taskflow_otel/web/tasks_api.py",
            '    @router.post(\n        "/{task_id}/cancel",\n',
            '    @router.get("/{task_id}/attempts", dependencies=[Depends(guard.viewer)])\n'
            "    async def get_attempts(task_id: str) -> AttemptsOut:\n"
            '        """How often the task was tried until now."""\n'
            "        record = await engine.lookup.get(task_id)\n"
            "        return AttemptsOut(task_id=task_id, attempts=record.attempt + 1)\n\n"
            '    @router.post(\n        "/{task_id}/cancel",\n',
        ),
        Edit(
            "taskflow_otel/client/aio.py",
            "from taskflow_otel.wire.tasks import ",
            "from taskflow_otel.wire.tasks import AttemptsOut, ",
        ),
        Edit(
            "taskflow_otel/client/aio.py",
            "    async def retry_task(",
            "    async def get_attempts(self, task_id: str) -> AttemptsOut:\n"
            '        """How often the task was tried until now."""\n'
            '        return read(AttemptsOut, await self._request("GET", f"/{task_segment(task_id)}/attempts"))\n\n'
            "    async def retry_task(",
        ),
    ),
    commands=("-m tests.client.twin",),
    probe="""
import httpx
from fastapi import FastAPI

from taskflow_otel import TaskAdmin, TaskManager


async def test_the_attempts_of_a_task_are_counted() -> None:
    manager, app = TaskManager(), FastAPI()
    TaskAdmin(app, manager, auth=("me", "secret"))

    @manager.task(retries=2)
    async def fail() -> None:
        raise ValueError

    async with app.router.lifespan_context(app):
        task_id = await manager.enqueue(fail)
        await manager.wait(task_id, 20)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", auth=("me", "secret")) as client:
            assert (await client.get(f"/tasks/{task_id}/attempts")).json() == {"task_id": task_id, "attempts": 3}
            assert (await client.get("/tasks/none/attempts")).status_code == 404
            client.auth = None
            assert (await client.get(f"/tasks/{task_id}/attempts")).status_code == 401
""",
    tests=("tests/web/test_api.py", "tests/web/test_guard.py", "tests/client/test_aio.py", "tests/client/test_sync.py"),
)

CHANGES = (EXPORTER, BACKEND, REASON, OPTION, ENDPOINT)
