"""Which connections commit each statement by themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, create_engine, event

from taskflow_otel.compat.sqlalchemy import autocommits, driver_autocommits


def plain(engine: Engine) -> Connection:
    return engine.connect()


def by_option(engine: Engine) -> Connection:
    return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def by_its_engine(engine: Engine) -> Connection:
    return engine.execution_options(isolation_level="AUTOCOMMIT").connect()


def by_its_driver(engine: Engine) -> Connection:
    event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    return engine.connect()


@pytest.mark.parametrize(
    ("connect", "said", "done"),
    [(plain, False, False), (by_option, True, True), (by_its_engine, True, True), (by_its_driver, False, True)],
)
def test_a_connection_that_commits_by_itself_is_recognised(
    tmp_path: Path, connect: Callable[[Engine], Connection], said: bool, done: bool
) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    with connect(engine) as connection:
        assert autocommits(connection) is said
        connection.begin()
        assert driver_autocommits(connection) is done
        connection.rollback()
        # The application has begun the transaction that its driver does not begin.
        connection.exec_driver_sql("BEGIN")
        assert not driver_autocommits(connection)
        connection.exec_driver_sql("ROLLBACK")
    engine.dispose()


def test_an_engine_that_was_made_to_commit_by_itself_is_recognised(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        assert autocommits(connection)
    engine.dispose()
