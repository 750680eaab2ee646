"""Each question of the engine and the web is a walk along an index: pinned, so that a change of plan is noticed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import ClauseElement, Connection, create_engine, make_url, select, text, update
from sqlalchemy.pool import NullPool

from taskflow_otel.backends.sql import queries
from taskflow_otel.backends.sql.queries import TaskSearch
from taskflow_otel.backends.sql.schema import metadata, tasks
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.status import TaskStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)

PAGES = {
    "taskflow_tasks_by_age": (TaskQuery(), TaskQuery(since=NOW), TaskQuery(until=NOW), TaskQuery(cursor="x")),
    "taskflow_tasks_by_status": (
        TaskQuery(status=TaskStatus.FAILED),
        TaskQuery(status=TaskStatus.PENDING, since=NOW),
        TaskQuery(status=TaskStatus.FAILED, cursor="x"),
    ),
    "taskflow_tasks_by_name": (TaskQuery(func_name="x"), TaskQuery(func_name="x", until=NOW)),
    "taskflow_tasks_by_queue": (TaskQuery(queue="x"),),
    "taskflow_tasks_by_source": (TaskQuery(source="x"),),
    "taskflow_tasks_by_trace": (TaskQuery(trace_id="x"),),
    "taskflow_tasks_by_tag": (TaskQuery(tag=("a", "b")), TaskQuery(tag=("a", "b"), since=NOW)),
    "taskflow_tasks_by_tag_name": (TaskQuery(tag=("a", None)),),
}

STATEMENTS: dict[str, tuple[str, ClauseElement]] = {
    "claim": ("taskflow_tasks_live", queries.orphans({"a", "b"}, "c", {"n"}, 10)),
    "orphan names": ("taskflow_tasks_live", queries.orphan_names({"a"})),
    "retention": ("taskflow_tasks_by_end", queries.ended_before(1, 10)),
    "changes": ("taskflow_tasks_by_change", queries.changed_since(1, "a", 10)),
    "cancel requests": ("taskflow_tasks_to_cancel", queries.cancel_requests("a")),
    "key holder": ("taskflow_tasks_active_key", select(tasks.c.task_id).where(tasks.c.active_key == "k")),
}


@pytest.fixture(scope="module")
def sqlite() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        metadata.create_all(connection)
        yield connection
    engine.dispose()


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Connection]:
    engine = create_engine(make_url(postgres_url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.connect() as connection:
        metadata.create_all(connection)
        # On an empty table any plan is as good as another: ask for those that it would choose on a large one.
        for setting in ("enable_seqscan", "enable_bitmapscan"):
            connection.execute(text(f"SET {setting} = off"))
        yield connection
    engine.dispose()


def explain(connection: Connection, statement: ClauseElement) -> list[str]:
    """The lines of the plan."""
    compiled = str(statement.compile(connection, compile_kwargs={"literal_binds": True}))
    words = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    return [str(row[-1]) for row in connection.exec_driver_sql(f"{words} {compiled}".replace("%%", "%"))]


def walks(plan: list[str]) -> list[tuple[str, str | None]]:
    """Each access of SQLite to a table: SCAN or SEARCH, and the index."""
    found = (re.match(r"(SCAN|SEARCH) taskflow_\w+(?: USING (?:COVERING )?INDEX (\w+))?", line) for line in plan)
    return [(match[1], match[2]) for match in found if match]


@pytest.mark.parametrize(("index", "query"), [(index, query) for index, some in PAGES.items() for query in some])
def test_a_page_walks_along_the_index_of_its_filter(sqlite: Connection, index: str, query: TaskQuery) -> None:
    plan = explain(sqlite, TaskSearch(query, cursor_at=1).page())
    assert walks(plan)[0][1] == index
    assert "USE TEMP B-TREE FOR ORDER BY" not in plan


def test_a_search_for_text_reads_only_the_newest_tasks(sqlite: Connection) -> None:
    search = TaskSearch(TaskQuery(q="x"))
    for statement in (search.page(), search.counts()):
        assert walks(explain(sqlite, statement))[0][1] == "taskflow_tasks_by_age"
        assert f"LIMIT {queries.SEARCH_WINDOW}" in str(
            statement.compile(sqlite, compile_kwargs={"literal_binds": True})
        )


@pytest.mark.parametrize(
    "query", [TaskQuery(), TaskQuery(func_name="x"), TaskQuery(status=TaskStatus.FAILED, queue="q", source="s")]
)
def test_counting_reads_the_kept_counts_and_the_live_tasks_only(sqlite: Connection, query: TaskQuery) -> None:
    plan = explain(sqlite, TaskSearch(query).counts())
    assert any("taskflow_finished_counts" in line for line in plan)
    assert ("SEARCH", "taskflow_tasks_live") in walks(plan)
    assert not any(index and index.startswith("taskflow_tasks_by") for _, index in walks(plan))


@pytest.mark.parametrize("query", [TaskQuery(since=NOW), TaskQuery(until=NOW), TaskQuery(since=NOW, until=NOW)])
def test_counting_over_a_time_reads_an_index_alone(sqlite: Connection, query: TaskQuery) -> None:
    [line] = explain(sqlite, TaskSearch(query).counts())
    assert line.startswith("SEARCH taskflow_tasks USING COVERING INDEX taskflow_tasks_by_status")


@pytest.mark.parametrize(("index", "statement"), STATEMENTS.values(), ids=STATEMENTS)
def test_every_other_question_searches_an_index(sqlite: Connection, index: str, statement: ClauseElement) -> None:
    plan = explain(sqlite, statement)
    assert walks(plan) == [("SEARCH", index)]
    assert "USE TEMP B-TREE FOR ORDER BY" not in plan


def test_an_update_finds_its_row_by_the_primary_key(sqlite: Connection) -> None:
    change = update(tasks).where(tasks.c.task_id == "x", tasks.c.finished_at.is_(None)).values(status="x")
    assert walks(explain(sqlite, change)) == [("SEARCH", "sqlite_autoindex_taskflow_tasks_1")]


def test_postgres_has_an_index_for_every_question(postgres: Connection) -> None:
    for index, some in PAGES.items():
        for query in some:
            if query.tag is not None:
                continue  # which of the two tag indexes is better depends on the statistics of a filled table
            assert f" {index} " in "\n".join(explain(postgres, TaskSearch(query, cursor_at=1).page()))
    for index, statement in STATEMENTS.values():
        assert f" {index} " in "\n".join(explain(postgres, statement))
