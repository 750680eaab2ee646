"""Exact trees of spans, as real OTLP exporters send them: one story of a task each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from taskflow_otel.backends import SqliteBackend
from taskflow_otel.cli.main import main
from taskflow_otel.exporters.otel.tracing import DEEPEST
from taskflow_otel.reconcile.compare import Difference, reconcile
from taskflow_otel.reconcile.otlp_file import read_exports
from tests.otlp import OtlpReceiver, Received, ReceivedSpan
from tests.otlp_grpc import OtlpGrpcReceiver
from tests.procs import AppProcess, WorkerProcess
from tests.waiting import wait_until

STUBBORN = ("stubborn", "stubborn_in_thread", "stubborn_in_process")
RECEIVERS = {"http": OtlpReceiver, "grpc": OtlpGrpcReceiver}


@dataclass
class Story:
    """What was done, and what was received of it by the time that every process had ended."""

    receiver: Received
    database: Path
    ids: dict[str, str] = field(default_factory=dict)
    metrics: str = ""

    @property
    def exports(self) -> Path:
        return self.database.with_suffix(".jsonl")

    def write_exports(self) -> None:
        lines = [json.dumps(message) for message in self.receiver.messages]
        self.exports.write_text("\n".join(lines))

    def tree(self, task_id: str) -> list[str]:
        """The spans of a task, of the requests that they belong to and of the application within them.

        Parts of a request that the web framework's instrumentation tells of are left out.
        """
        spans = self.receiver.spans
        mine = {span.span_id for span in spans if span.attributes.get("messaging.message.id") == task_id}
        assert len(mine) == len([s for s in spans if s.attributes.get("messaging.message.id") == task_id])
        kept = {
            span.span_id: span
            for span in spans
            if span.span_id in mine
            or (span.kind == "SERVER" and any(span in self.receiver.ancestors(s) for s in spans if s.span_id in mine))
            or (span.name in {"look up", "charge"} and any(a.span_id in mine for a in self.receiver.ancestors(span)))
        }
        titles = {span.span_id: f"another {span.name}" for span in spans if "messaging.message.id" in span.attributes}
        for span in spans:
            # A part of a request stands for it.
            served = (above.name for above in (span, *self.receiver.ancestors(span)) if above.kind == "SERVER")
            titles.setdefault(span.span_id, next(served, span.name))
        titles |= _titles(span for span in kept.values() if span.span_id in mine)
        parents = {
            span.span_id: next((a.span_id for a in self.receiver.ancestors(span) if a.span_id in kept), "")
            for span in kept.values()
        }
        lines: list[str] = []

        def draw(parent: str, depth: int) -> None:
            children = [span for span in kept.values() if parents[span.span_id] == parent]
            for span in sorted(children, key=lambda span: span.start):
                lines.append("  " * depth + _line(span, titles))
                draw(span.span_id, depth + 1)

        draw("", 0)
        return lines


def _titles(spans: Iterator[ReceivedSpan]) -> dict[str, str]:
    ordered = sorted(spans, key=lambda span: span.start)
    attempts = (
        (span.span_id, "send" if span.kind == "PRODUCER" else f"attempt {span.attributes['taskflow.attempt']}")
        for span in ordered
    )
    return dict(attempts)


def _line(span: ReceivedSpan, titles: dict[str, str]) -> str:
    line = f"{span.name} {span.kind}"
    if span.error:
        line += f" ERROR {span.attributes['error.type']}"
    if span.links:
        line += f" -> {', '.join(titles.get(link, 'one that died') for link in span.links)}"
    return line


def post(app: AppProcess, path: str) -> dict[str, str]:
    answer: dict[str, str] = httpx.post(f"{app.url}{path}", timeout=30).raise_for_status().json()
    return answer


def status(app: AppProcess, task_id: str) -> str:
    return str(httpx.get(f"{app.url}/tasks/{task_id}", timeout=30).raise_for_status().json()["status"])


def ended(app: AppProcess, task_id: str) -> bool:
    return status(app, task_id) not in {"pending", "running"}


def ended_at_all(app: AppProcess, task_id: str) -> bool:
    """The same for a planned run, which is no task before its time."""
    return httpx.get(f"{app.url}/tasks/{task_id}", timeout=30).status_code == 200 and ended(app, task_id)


def number_of(app: AppProcess, name: str) -> int:
    """How many tasks of a type have succeeded."""
    found = httpx.get(f"{app.url}/tasks?func_name={name}&status=success&limit=100", timeout=30).raise_for_status()
    return len(found.json())


@pytest.fixture(scope="module", params=RECEIVERS)
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """One process that lives through everything but a crash."""
    directory = tmp_path_factory.mktemp("trees")
    with RECEIVERS[request.param]() as receiver:
        story = Story(receiver, directory / "tasks.db")
        env = {**receiver.environment, "APP_DB": str(story.database), "APP_RELEASE": str(directory / "release")}
        with AppProcess("tests.apps.tree_app:app", directory, env=env) as app:
            for name in ("success", "third_time", "failing", "eager", "too_slow", "in_thread", "in_process"):
                story.ids[name] = post(app, f"/run/{name}")["task_id"]
            story.ids["later"] = post(app, "/run/later?delay=0.2")["task_id"]
            wait_until(lambda: all(ended(app, task_id) for task_id in story.ids.values()), "the end of every task")

            story.ids["endless"] = post(app, "/run/endless")["task_id"]
            wait_until(lambda: status(app, story.ids["endless"]) == "running", "the start of the endless task")
            story.ids["never_run"] = post(app, "/run/later?delay=3600")["task_id"]
            crowd = post(app, "/crowd")["ids"]
            for task_id in (story.ids["endless"], story.ids["never_run"], *crowd):
                post(app, f"/tasks/{task_id}/cancel")
                wait_until(lambda task_id=task_id: ended(app, task_id), "the cancellation")  # type: ignore[misc]
            story.ids["crowded"] = crowd[0]
            found = httpx.get(f"{app.url}/tasks?status=rejected", timeout=30).raise_for_status().json()
            story.ids["rejected"] = found[0]["task_id"]
            for name in STUBBORN:
                first = post(app, f"/run/{name}")["task_id"]
                wait_until(lambda task_id=first: ended(app, task_id), "the first failure")  # type: ignore[misc]
                story.ids[name] = post(app, f"/tasks/{first}/retry")["task_id"]
                story.ids[f"planned {name}"] = post(app, f"/plan/{name}")["task_id"]
            post(app, f"/again/{DEEPEST + 3}")
            again = [f"again{where}" for where in ("", "_in_thread")]
            wait_until(lambda: all(number_of(app, name) == DEEPEST + 3 for name in again), "each task that adds itself")
            wait_until(
                lambda: all(ended_at_all(app, story.ids[f"planned {name}"]) for name in STUBBORN), "planned runs"
            )
            wait_until(lambda: all(ended(app, story.ids[name]) for name in STUBBORN), "the retries by hand")
            story.metrics = httpx.get(f"{app.url}/tasks/metrics", timeout=30).raise_for_status().text
            app.terminate()
        story.write_exports()
        yield story


TREES = {
    "success": [
        "POST /run/{name} SERVER",
        "  send success PRODUCER",
        "    process success CONSUMER -> send",
        "      look up INTERNAL",
        "        charge INTERNAL",
    ],
    "third_time": [
        "POST /run/{name} SERVER",
        "  send third_time PRODUCER",
        "    process third_time CONSUMER ERROR ConnectionError -> send",
        "    process third_time CONSUMER ERROR ConnectionError -> send, attempt 0",
        "    process third_time CONSUMER ERROR ConnectionError -> send, attempt 1",
        "    process third_time CONSUMER -> send, attempt 2",
    ],
    "failing": [
        "POST /run/{name} SERVER",
        "  send failing PRODUCER",
        "    process failing CONSUMER ERROR ValueError -> send",
    ],
    "eager": [
        "POST /run/{name} SERVER",
        "  send eager PRODUCER",
        "    process eager CONSUMER -> send",
        "      look up INTERNAL",
    ],
    "later": [
        "POST /run/{name} SERVER",
        "  send later PRODUCER",
        "process later CONSUMER -> send",
    ],
    "endless": [
        "POST /run/{name} SERVER",
        "  send endless PRODUCER",
        "    process endless CONSUMER -> send",
    ],
    "never_run": [
        "POST /run/{name} SERVER",
        "  send later PRODUCER",
    ],
    "too_slow": [
        "POST /run/{name} SERVER",
        "  send too_slow PRODUCER",
        "    process too_slow CONSUMER ERROR taskflow_otel.errors.TaskTimeoutError -> send",
    ],
    "rejected": [
        "POST /crowd SERVER",
        "  send crowded PRODUCER ERROR queue_full",
    ],
    "in_thread": [
        "POST /run/{name} SERVER",
        "  send in_thread PRODUCER",
        "    process in_thread CONSUMER -> send",
        "      look up INTERNAL",
    ],
    "in_process": [
        "POST /run/{name} SERVER",
        "  send in_process PRODUCER",
        "    process in_process CONSUMER -> send",
        "      look up INTERNAL",
    ],
}


@pytest.mark.parametrize("name", TREES)
def test_the_story_of_a_task_is_this_tree(story: Story, name: str) -> None:
    assert story.tree(story.ids[name]) == TREES[name]


def test_the_trees_are_the_same_if_a_worker_runs_the_tasks_of_a_web_process(tmp_path: Path) -> None:
    names = ("success", "third_time", "failing", "too_slow", "in_thread", "in_process", "endless")
    with OtlpReceiver() as receiver:
        story = Story(receiver, tmp_path / "tasks.db")
        env = {**receiver.environment, "APP_DB": str(story.database), "APP_RELEASE": str(tmp_path / "release")}
        web = AppProcess("tests.apps.tree_app:app", tmp_path, env={**env, "TASKFLOW_RUN": "none"})
        worker = WorkerProcess("tests.apps.tree_app:app", tmp_path, env=env)
        with web, worker:
            story.ids = {name: post(web, f"/run/{name}")["task_id"] for name in names}
            story.ids["later"] = post(web, "/run/later?delay=0.2")["task_id"]
            wait_until(lambda: status(web, story.ids["endless"]) == "running", "the start of the endless task")
            post(web, f"/tasks/{story.ids['endless']}/cancel")
            wait_until(lambda: all(ended(web, task_id) for task_id in story.ids.values()), "the end of every task")
            worker.terminate()
            web.terminate()
        assert {name: story.tree(task_id) for name, task_id in story.ids.items()} == {
            name: TREES[name] for name in story.ids
        }


@pytest.mark.parametrize("name", STUBBORN)
def test_retries_of_a_task_that_was_retried_by_hand_stay_in_the_trace_of_its_first_attempt(
    story: Story, name: str
) -> None:
    assert story.tree(story.ids[name]) == [
        "POST /tasks/{task_id}/retry SERVER",
        f"  send {name} PRODUCER -> another process {name}",
        f"process {name} CONSUMER ERROR ConnectionError -> send",
        f"  process {name} CONSUMER ERROR ConnectionError -> send, attempt 0",
        f"  process {name} CONSUMER ERROR ConnectionError -> send, attempt 1",
    ]


@pytest.mark.parametrize("name", STUBBORN)
def test_a_run_planned_in_a_request_links_to_it_and_its_retries_stay_together(story: Story, name: str) -> None:
    assert story.tree(story.ids[f"planned {name}"]) == [
        f"send {name} PRODUCER -> POST /plan/{{name}}",
        f"process {name} CONSUMER ERROR ConnectionError -> send",
        f"  process {name} CONSUMER ERROR ConnectionError -> send, attempt 0",
        f"  process {name} CONSUMER ERROR ConnectionError -> send, attempt 1",
    ]


@pytest.mark.parametrize("name", ["again", "again_in_thread"])
def test_a_task_that_adds_itself_makes_a_new_trace_after_a_bound(story: Story, name: str) -> None:
    sends = sorted(story.receiver.named(f"send {name}"), key=lambda span: span.start)
    traces = [span.trace_id for span in sends]
    first, second = dict.fromkeys(traces)
    assert traces == [first] * DEEPEST + [second] * 3
    [last] = [span for span in story.receiver.named(f"process {name}") if span.span_id in sends[DEEPEST].links]
    assert sends[DEEPEST - 1].span_id in last.links


def test_ledger_metrics_spans_and_logs_agree(story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "metrics.txt"
    page.write_text(story.metrics)
    command = ["reconcile", "--backend", str(story.database), "--metrics", str(page), "--export", str(story.exports)]
    assert (main(command), capsys.readouterr().out) == (0, "0 differences\n")


@pytest.mark.parametrize(
    ("protocol", "name"),
    [("http", "wait_for_file"), ("grpc", "wait_for_file"), ("http", "wait_on_the_loop"), ("http", "wait_in_process")],
)
def test_a_crash_and_the_takeover_by_another_instance_are_one_story(protocol: str, name: str, tmp_path: Path) -> None:
    with RECEIVERS[protocol]() as receiver:
        story = Story(receiver, tmp_path / "tasks.db")
        env = {**receiver.environment, "APP_DB": str(story.database), "APP_RELEASE": str(tmp_path / "release")}
        first, second = (AppProcess("tests.apps.tree_app:app", tmp_path, env=env) for _ in range(2))
        with first, second:
            task_id = post(first, f"/run/{name}")["task_id"]
            logged = {"taskflow.task.enqueued", "taskflow.task.started"}
            wait_until(lambda: logged <= {log.event_name for log in receiver.logs}, "the records of the start")
            wait_until(lambda: len(story.tree(task_id)) == 2, "the spans of the request")
            [send] = receiver.named(f"send {name}")

            def stored() -> bool:
                task = httpx.get(f"{second.url}/tasks/{task_id}", timeout=30).raise_for_status().json()
                return task["span_id"] not in {None, send.span_id}

            wait_until(stored, "the ids of the attempt's span in the ledger")
            first.kill()
            wait_until(lambda: "taskflow.task.recovered" in {log.event_name for log in receiver.logs}, "the takeover")
            (tmp_path / "release").touch()
            wait_until(lambda: status(second, task_id) == "success", "the success of the recovered task")
            second.terminate()
        assert story.tree(task_id) == [
            "POST /run/{name} SERVER",
            f"  send {name} PRODUCER",
            f"    process {name} CONSUMER ERROR ProcessDied -> send",
            f"process {name} CONSUMER -> send, attempt 0",
        ]
        started = [log.span_id for log in receiver.logs if log.event_name == "taskflow.task.started"]
        dead, recovered = sorted(receiver.named(f"process {name}"), key=lambda span: span.start)
        assert started == [dead.span_id, recovered.span_id]
        story.write_exports()
        assert asyncio.run(differences(story)) == []


async def differences(story: Story) -> list[Difference]:
    """What differs between the ledger and the exported spans and logs."""
    backend = SqliteBackend(story.database)
    await backend.open()
    try:
        return await reconcile(backend, exported=read_exports([story.exports]))
    finally:
        await backend.close()
