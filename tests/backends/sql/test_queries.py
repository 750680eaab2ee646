"""Each question of the engine and the web is a walk along an index: pinned, so that a change of plan is noticed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import ClauseElement, Connection, create_engine, make_url, select, text, update
from sqlalchemy.pool import NullPool

from taskflow_otel.backends.pool import Wanted
from taskflow_otel.backends.sql import audit, failures, figures, pool, postgres_pool, queries
from taskflow_otel.backends.sql.mapping import micros
from taskflow_otel.backends.sql.queries import TaskSearch, Way, countable, index_of, kept_counts, ways
from taskflow_otel.backends.sql.schema import metadata, tasks
from taskflow_otel.model.audit import AuditCursor, AuditQuery
from taskflow_otel.model.figures import Span
from taskflow_otel.model.query import TaskQuery, Trend
from taskflow_otel.model.status import TaskStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = 20_000

PAGES = {
    "taskflow_tasks_by_age": (TaskQuery(), TaskQuery(since=NOW), TaskQuery(until=NOW), TaskQuery(cursor="x")),
    "taskflow_tasks_by_status": (
        TaskQuery(status=TaskStatus.FAILED),
        TaskQuery(status=TaskStatus.PENDING, since=NOW),
        TaskQuery(status=TaskStatus.FAILED, cursor="x"),
    ),
    "taskflow_tasks_by_name": (TaskQuery(func_name="x"), TaskQuery(func_name="x", until=NOW)),
    "taskflow_tasks_gone_wrong": (
        TaskQuery(func_name="x", status=TaskStatus.FAILED),
        TaskQuery(func_name="x", status=TaskStatus.FAILED, cursor="x"),
    ),
    "taskflow_tasks_by_queue": (TaskQuery(queue="x"),),
    "taskflow_tasks_by_source": (TaskQuery(source="x"),),
    "taskflow_tasks_by_trace": (TaskQuery(trace_id="x"),),
    "taskflow_tasks_by_fingerprint": (TaskQuery(fingerprint="x"), TaskQuery(fingerprint="x", cursor="x")),
    "taskflow_tasks_by_tag": (TaskQuery(tag=("a", "b")), TaskQuery(tag=("a", "b"), since=NOW)),
    "taskflow_tasks_by_tag_name": (TaskQuery(tag=("a", None)),),
}

# No index decides all of these conditions: the walk is along one of those that decide some.
MIXED = (
    TaskQuery(q="x"),
    TaskQuery(q="x", status=TaskStatus.FAILED, since=NOW),
    TaskQuery(error="x", func_name_prefix="y", min_duration=1.0, max_duration=2.0),
    TaskQuery(status=TaskStatus.FAILED, queue="x"),
    TaskQuery(func_name="x", status=TaskStatus.FAILED, source="x"),
    TaskQuery(func_name="x", status=TaskStatus.SUCCESS),
    TaskQuery(func_name="x", queue="x", until=NOW, cursor="x"),
    TaskQuery(tag=("a", None), status=TaskStatus.FAILED),
    TaskQuery(tag=("a", "b"), func_name="x", status=TaskStatus.FAILED, queue="x", q="x"),
    TaskQuery(trace_id="x", tag=("a", "b"), queue="x"),
)

PLACE = AuditCursor(NOW, "x")
STATEMENTS: dict[str, tuple[str, ClauseElement]] = {
    "claim": ("taskflow_tasks_live", queries.orphans({"a", "b"}, "c", {"n"}, 10)),
    "claim from the pool": (
        "taskflow_pool_by_rank",
        pool.wanted_statement(Wanted("q", {"n"}, 10), {"s"}),
    ),
    "depth of the pool": ("taskflow_pool_by_rank", pool.depth_statement({"q"})),
    "orphan names": ("taskflow_tasks_live", queries.orphan_names({"a"})),
    "retention": ("taskflow_tasks_by_end", queries.ended_before(1, 10)),
    "changes": ("taskflow_tasks_by_change", queries.changed_since(1, "a", 10)),
    "cancel requests": ("taskflow_tasks_to_cancel", queries.cancel_requests("a")),
    "key holder": ("taskflow_tasks_active_key", select(tasks.c.task_id).where(tasks.c.active_key == "k")),
    "groups of failures": (
        "taskflow_tasks_by_fingerprint",
        failures.groups_statement(TaskQuery(), Trend(NOW, NOW)),
    ),
    "when groups occurred": ("taskflow_tasks_by_fingerprint", failures.occurrences_statement(["x", "y"], 0, 9, 3)),
    "audit": ("taskflow_audit_by_age", audit.page_statement(AuditQuery(since=NOW))),
    "audit of a user": ("taskflow_audit_by_actor", audit.page_statement(AuditQuery(actor="a", cursor=PLACE))),
    "audit of an action": ("taskflow_audit_by_action", audit.page_statement(AuditQuery(action="a"))),
    "audit of an outcome": ("taskflow_audit_by_outcome", audit.page_statement(AuditQuery(outcome="a", until=NOW))),
    "audit of a task": ("taskflow_audit_by_task", audit.page_statement(AuditQuery(task_id="a"))),
    "retention of the audit": ("taskflow_audit_by_age", audit.before_statement(1, 10)),
}


FILL = (
    """
    INSERT INTO taskflow_tasks (
        task_id, trace_id, created_at, updated_at, finished_at, func_name, source, queue, status, priority, executor,
        instance, token, attempt, retries_used, logs_dropped, crashes, persisted, cancel_requested, tags, timeline,
        trace
    )
    SELECT to_char(n, 'FM00000'), to_char(n, 'FM00000'), :begin + n, :begin + n, :begin + n,
        CASE n % 4 WHEN 1 THEN 'x' ELSE 'y' END, CASE n % 5 WHEN 1 THEN 'x' ELSE 'y' END,
        CASE n % 3 WHEN 1 THEN 'x' ELSE 'y' END, CASE n % 20 WHEN 1 THEN 'failed' ELSE 'success' END,
        5, 'auto', 'a', 0, 0, 0, 0, 0, 1, 0, '{}', '[]', ''
    FROM generate_series(1, :rows) AS n
    """,
    """
    INSERT INTO taskflow_task_tags (task_id, name, value, created_at)
    SELECT task_id, 'a', CASE created_at % 30 WHEN 1 THEN 'b' ELSE 'c' END, created_at FROM taskflow_tasks
    """,
    """
    INSERT INTO taskflow_figures (span, slot, func_name, kind, bucket, shard, tasks, micros)
    SELECT 'hour', hour * 3600, name::text, 'success', bucket, 0, 1, 1
    FROM generate_series(0, 839) AS hour, generate_series(1, 10) AS name, generate_series(1, 5) AS bucket
    """,
    "ANALYZE taskflow_tasks, taskflow_task_tags, taskflow_figures",
)


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
        for statement in FILL:
            connection.execute(text(statement), {"rows": ROWS, "begin": micros(NOW) - ROWS // 2})
        for setting in ("enable_seqscan", "enable_bitmapscan"):
            connection.execute(text(f"SET {setting} = off"))
        yield connection
    engine.dispose()


def explain(connection: Connection, statement: ClauseElement) -> list[str]:
    """The lines of the plan."""
    compiled = str(statement.compile(connection, compile_kwargs={"literal_binds": True}))
    words = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    return [str(row[-1]) for row in connection.exec_driver_sql(f"{words} {compiled}")]


def walks(plan: list[str]) -> list[tuple[str, str | None]]:
    """Each access of SQLite to a table: SCAN or SEARCH, and the index."""
    found = (re.match(r"(SCAN|SEARCH) taskflow_\w+(?: USING (?:COVERING )?INDEX (\w+))?", line) for line in plan)
    return [(match[1], match[2]) for match in found if match]


def search(query: TaskQuery, way: Way, *, by_rows: bool = False) -> TaskSearch:
    """A search whose cursor is not far from where it begins."""
    return TaskSearch(query, way, None if query.cursor is None else begin(query) - 100, by_rows=by_rows)


def begin(query: TaskQuery) -> int:
    """The creation time of the newest task that a query lets through."""
    return micros(NOW) + (ROWS // 2 if query.until is None else 0)


def only_way(query: TaskQuery, *, by_rows: bool = False) -> TaskSearch:
    """The search of a query that one index answers."""
    [way] = ways(query)
    found = search(query, way, by_rows=by_rows)
    assert found.decided
    return found


ALL_PAGES = [(index, query) for index, some in PAGES.items() for query in some]
ALL_MIXED = [(query, way) for query in MIXED for way in ways(query)]


@pytest.mark.parametrize(("index", "query"), ALL_PAGES)
def test_a_page_walks_along_the_index_of_its_filter(sqlite: Connection, index: str, query: TaskQuery) -> None:
    plan = explain(sqlite, only_way(query).page())
    assert walks(plan)[0][1] == index
    assert "USE TEMP B-TREE FOR ORDER BY" not in plan


@pytest.mark.parametrize(("index", "query"), [page for page in ALL_PAGES if not countable(page[1])])
def test_the_total_of_a_filter_is_counted_in_its_index_alone(sqlite: Connection, index: str, query: TaskQuery) -> None:
    statement = only_way(query).total(10_000, None)
    assert f"COVERING INDEX {index}" in "\n".join(explain(sqlite, statement))
    assert "LIMIT 10000" in str(statement.compile(sqlite, compile_kwargs={"literal_binds": True}))


@pytest.mark.parametrize(("query", "way"), ALL_MIXED)
def test_a_search_walks_along_its_index_back_to_its_edge(sqlite: Connection, query: TaskQuery, way: Way) -> None:
    walk = search(query, way)
    assert not walk.decided
    bounded = {"page": walk.page(1), "total": walk.total(10, 1), "counts": walk.counts(1)}
    others = {"edge": walk.edge(9), "last": walk.last(1)}
    if way:
        others["size"] = walk.size(9)
    for what, statement in {**bounded, **others}.items():
        plan = "\n".join(explain(sqlite, statement))
        assert re.search(rf"(SEARCH|SCAN) taskflow_\w+ USING (COVERING )?INDEX {index_of(query, way)}\b", plan), what
        assert "USE TEMP B-TREE FOR ORDER BY" not in plan
        if what in bounded:
            assert "created_at>?" in plan, what


@pytest.mark.parametrize(
    "query", [TaskQuery(), TaskQuery(func_name="x"), TaskQuery(status=TaskStatus.PENDING, queue="q", source="s")]
)
def test_counting_reads_the_kept_counts_and_the_live_tasks_only(sqlite: Connection, query: TaskQuery) -> None:
    plan = explain(sqlite, kept_counts(query))
    assert any("taskflow_finished_counts" in line for line in plan)
    [live] = [line for line in plan if "taskflow_tasks " in line]
    assert re.match(r"SEARCH taskflow_tasks USING (COVERING )?INDEX taskflow_tasks_by_status \(status=\?\)", live)


def test_counting_finished_tasks_reads_the_kept_counts_only(sqlite: Connection) -> None:
    plan = explain(sqlite, kept_counts(TaskQuery(status=TaskStatus.FAILED, func_name="x")))
    assert any("taskflow_finished_counts" in line for line in plan)
    assert not any("taskflow_tasks" in line for line in plan)


@pytest.mark.parametrize("query", [TaskQuery(since=NOW), TaskQuery(until=NOW), TaskQuery(since=NOW, until=NOW)])
@pytest.mark.parametrize("back_to", [None, 1])
def test_counting_over_a_time_reads_an_index_alone(sqlite: Connection, query: TaskQuery, back_to: int | None) -> None:
    [line] = explain(sqlite, only_way(query).counts(back_to))
    assert line.startswith("SEARCH taskflow_tasks USING COVERING INDEX taskflow_tasks_by_status")


@pytest.mark.parametrize(("index", "statement"), STATEMENTS.values(), ids=STATEMENTS)
def test_every_other_question_searches_an_index(sqlite: Connection, index: str, statement: ClauseElement) -> None:
    plan = explain(sqlite, statement)
    assert walks(plan) == [("SEARCH", index)]
    assert "USE TEMP B-TREE FOR ORDER BY" not in plan


def test_groups_of_failures_are_counted_in_their_index_alone_and_in_its_order(sqlite: Connection) -> None:
    [line] = explain(sqlite, failures.groups_statement(TaskQuery(), Trend(NOW, NOW)))
    assert line.startswith("SEARCH taskflow_tasks USING COVERING INDEX taskflow_tasks_by_fingerprint")


HOURS = 0, 168 * 3_600


def test_the_figures_of_a_type_are_a_look_at_the_primary_key_for_each_slot(sqlite: Connection) -> None:
    statement = figures.figures_statement(Span.HOUR, *HOURS, True, names=["x"])
    [line] = [line for line in explain(sqlite, statement) if "taskflow_figures" in line]
    assert line.startswith("SEARCH taskflow_figures USING INDEX sqlite_autoindex_taskflow_figures_1")
    assert "(span=? AND slot=? AND func_name=?" in line
    for other in (figures.figures_statement(Span.HOUR, *HOURS, True), figures.oldest_statement(Span.HOUR)):
        assert [how for how, _ in walks(explain(sqlite, other))] == ["SEARCH"]


def test_an_update_finds_its_row_by_the_primary_key(sqlite: Connection) -> None:
    change = update(tasks).where(tasks.c.task_id == "x", tasks.c.finished_at.is_(None)).values(status="x")
    assert walks(explain(sqlite, change)) == [("SEARCH", "sqlite_autoindex_taskflow_tasks_1")]


def test_tasks_to_delete_are_found_by_the_primary_key(sqlite: Connection) -> None:
    plan = explain(sqlite, queries.ended_among(["a", "b"]))
    assert walks(plan) == [("SEARCH", "sqlite_autoindex_taskflow_tasks_1")]


def test_postgres_has_an_index_for_every_question(postgres: Connection) -> None:
    for index, query in ALL_PAGES:
        assert f" {index} " in "\n".join(explain(postgres, only_way(query, by_rows=True).page()))
    for query, way in ALL_MIXED:
        walk, back_to = search(query, way, by_rows=True), begin(query) - 600
        assert f" {index_of(query, way)} " in "\n".join(explain(postgres, walk.edge(9)))
        for statement in (walk.page(back_to), walk.total(10, back_to), walk.counts(back_to), walk.last(back_to)):
            bounds = [line for line in explain(postgres, statement) if "Index Cond" in line and str(back_to) in line]
            assert bounds, query
    for index, other in STATEMENTS.values():
        assert f" {index} " in "\n".join(explain(postgres, other))
    plan = "\n".join(explain(postgres, figures.figures_statement(Span.HOUR, *HOURS, True, names=["7"])))
    assert re.search(r"Index Cond: .*slot = ANY .*func_name", plan), plan


def test_a_claim_on_postgres_finds_its_tasks_by_their_ids_whatever_the_planner_knows(postgres: Connection) -> None:
    for setting in ("enable_seqscan", "enable_bitmapscan"):
        postgres.execute(text(f"SET {setting} = on"))
    wanted = pool.wanted_statement(Wanted("q", {"n"}, 10), {"s"})
    plan = explain(postgres, pool.claiming_statement(wanted, "b"))
    of = ["q", ["n"], ["s"], None, None, 10, "b", "b", 1]
    in_flight = [row[0] for row in postgres.exec_driver_sql(f"EXPLAIN {postgres_pool.CLAIM}", tuple(of))]
    for lines in (plan, in_flight):
        [walk] = [line for line in lines if "Scan" in line and " on taskflow_tasks" in line]
        assert "Index Scan using taskflow_tasks_pkey" in walk
    given = [["t"], "a", 1, ["t"], ["q"], [0], ["n"], ["s"], [1]]
    gift = [row[0] for row in postgres.exec_driver_sql(f"EXPLAIN {postgres_pool.GIVE}", tuple(given))]
    walks_of_gift = [line for line in gift if "Scan" in line and " on taskflow_tasks" in line]
    assert len(walks_of_gift) == 2
    assert all("Index Scan using taskflow_tasks_pkey" in walk for walk in walks_of_gift)
