"""What the environment says a process runs."""

from __future__ import annotations

import pytest

from taskflow_otel import QueueConfig, TaskManager
from taskflow_otel.engine.deployment import CONCURRENCY, QUEUES, RUN, Deployment, deployment
from taskflow_otel.errors import ConfigurationError


def test_without_a_word_each_queue_says_where_its_tasks_run() -> None:
    assert deployment({}) == deployment({RUN: "", QUEUES: "", CONCURRENCY: ""}) == Deployment("here", None, None)


def test_the_variables_are_read() -> None:
    environ = {RUN: "pool", QUEUES: "mail, video", CONCURRENCY: "8"}
    assert deployment(environ) == Deployment("pool", frozenset({"mail", "video"}), 8)


@pytest.mark.parametrize(
    ("variable", "value"),
    [(RUN, "everywhere"), (RUN, "Pool"), (QUEUES, "a,,b"), (CONCURRENCY, "0"), (CONCURRENCY, "-1"), (CONCURRENCY, "x")],
)
def test_a_wrong_value_is_refused_by_name(variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match="the name of a queue" if variable == QUEUES else variable):
        deployment({variable: value})


def test_a_manager_reads_them_and_refuses_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN, "pool")
    with pytest.raises(ConfigurationError, match="cannot share tasks: give TaskManager a database"):
        TaskManager()
    monkeypatch.setenv(QUEUES, "nowhere")
    with pytest.raises(ConfigurationError, match="queues that do not exist: nowhere"):
        TaskManager(snapshot_db="tasks.db")


def test_a_queue_is_shared_on_a_database_only() -> None:
    with pytest.raises(ConfigurationError, match="the queues video are shared"):
        TaskManager(queues={"video": QueueConfig(run="pool")})
    with pytest.raises(ConfigurationError, match="must be 'here', 'pool' or 'celery', not 'elsewhere'"):
        QueueConfig(run="elsewhere")  # type: ignore[arg-type]
