"""Fixtures that every test may ask for; a server starts when the first test needs it and ends with the session."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings

from tests.servers import MariaDBServer, PgBouncerServer, PostgresServer, RabbitServer, RedisServer

# In CI, each run tries the same examples, so that a failure there is repeated everywhere with CI=true. Elsewhere, the
# examples are new in each run; a failure prints how to repeat it. No example has a deadline: how long it takes depends
# on what else the machine does.
settings.register_profile("taskflow-otel", derandomize="CI" in os.environ, print_blob=True, deadline=None)
settings.load_profile("taskflow-otel")


LONG_FIRST = (
    "chaos",
    "benchmarks",
    "contributing",
    "ledger",
    "e2e",
    "dashboards",
    "typing",
    "web/test_generated_requests.py",
    "engine/test_machine.py",
    "test_docs.py",
    "web/test_page.py",
    "web/test_page_task.py",
    "request/test_outbox.py",
    "cli",
    "backends",
    "faults",
    "engine",
    "web",
)
"""Folders and files that take long. Workers get whole files: a long one at the end would leave the others idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    tests = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(tests)
        found = [n for n, long in enumerate(LONG_FIRST) if long in (str(path), path.parts[0])]
        return min(found, default=len(LONG_FIRST))

    items.sort(key=place)


CACHING = ("fastapi.dependencies.models", "taskflow_otel.compat.fastapi")
"""Modules that remember functions, by which whole applications stay alive after their tests."""
_ended = count(1)


def freeze_what_is_loaded() -> None:
    """Keep what lives as long as the process from being visited by each full garbage collection.

    Each manager would freeze and thaw it otherwise, and after that, the next full collection visits all of it, which
    takes three quarters of a second. `tests/runtime/test_garbage.py` tests what a manager does where nothing is frozen.
    """
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    """All modules of tests have been loaded."""
    freeze_what_is_loaded()


def pytest_runtest_logfinish() -> None:
    """Forget dead applications now and then: each is 30,000 objects. Tests load further modules, too."""
    number = next(_ended)
    if number % 20 == 0:
        for name in CACHING:
            for found in vars(sys.modules[name]).values() if name in sys.modules else ():
                if hasattr(found, "cache_clear"):
                    found.cache_clear()
    if number % 200 == 0:
        freeze_what_is_loaded()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis for the session; a test that restarts or reconfigures it starts one of its own instead."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def rabbit_server() -> Iterator[RabbitServer]:
    """One RabbitMQ for the session; a test that restarts it leaves it running."""
    with RabbitServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the session."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer_server(postgres_server: PostgresServer) -> Iterator[PgBouncerServer]:
    """One pgbouncer for the session, in front of its PostgreSQL."""
    postgres_server.start()
    with PgBouncerServer(postgres_server) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDBServer]:
    """One MariaDB for the session."""
    with MariaDBServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """URL of an empty Redis database."""
    redis_server.start()
    return redis_server.fresh_url()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """URL of an empty PostgreSQL database."""
    postgres_server.start()
    return postgres_server.fresh_url()


@pytest.fixture
def pgbouncer_url(pgbouncer_server: PgBouncerServer, postgres_server: PostgresServer) -> str:
    """URL of an empty PostgreSQL database behind pgbouncer."""
    postgres_server.start()
    pgbouncer_server.start()
    return pgbouncer_server.fresh_url()


@pytest.fixture
def mariadb_url(mariadb_server: MariaDBServer) -> str:
    """URL of an empty MariaDB database."""
    mariadb_server.start()
    return mariadb_server.fresh_url()
