"""Tasks in transactions of callers, in real routes and in processes that are killed: what was committed is executed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager
from taskflow_otel.errors import TaskNotFoundError
from taskflow_otel.request.current import current_request
from tests.apps.transactions_app import POINTS
from tests.callers import Database
from tests.e2e.transactions import storm
from tests.managers import WAIT
from tests.waiting import wait_until


@pytest.mark.parametrize("server", ["sqlite", "postgres", "mariadb"])
def test_exactly_the_committed_orders_are_shipped_whenever_a_process_is_killed(
    request: pytest.FixtureRequest, tmp_path: Path, server: str
) -> None:
    url = f"sqlite:///{tmp_path / 'tasks.db'}" if server == "sqlite" else request.getfixturevalue(f"{server}_url")
    done = storm(url, tmp_path, 56, after=4)
    assert done.shipped.keys() == done.orders
    assert {place.partition(",")[0] for place in done.kills} == set(POINTS)
    # Half of the transactions are rolled back, and a kill may come before a commit.
    assert len(done.orders) >= 15


@pytest.fixture(params=["asynchronous", "plain"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[TestClient, TaskManager, list[str]]]:
    """An application whose dependency commits after the endpoint, and whose task notes its order."""
    app, shipped = FastAPI(), list[str]()
    manager = TaskManager(snapshot_db=str(tmp_path / "tasks.db"))
    TaskAdmin(app, manager, auto_install=True)
    database = Database(f"sqlite:///{tmp_path / 'tasks.db'}")

    @manager.task()
    async def ship(order: str) -> None:
        assert current_request.get() is None
        shipped.append(order)

    async def asynchronous() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(database.async_engine) as session:
            yield session
            if session.info:
                raise RuntimeError("the commit fails")
            await session.commit()

    def plain() -> Iterator[Session]:
        with Session(database.engine) as session:
            yield session
            if session.info:
                raise RuntimeError("the commit fails")
            session.commit()

    def order(tasks: ManagedBackgroundTasks, name: str, session: Any) -> str:
        task_id = tasks.add_task(ship, name, session=session)
        if name == "fails":
            raise HTTPException(409)
        if name == "spoils":
            session.info["spoiled"] = True
        return task_id

    if request.param == "asynchronous":

        @app.post("/orders/{name}")
        async def create(name: str, tasks: ManagedBackgroundTasks, session: Any = Depends(asynchronous)) -> str:
            task_id = order(tasks, name, session)
            if name == "commits-and-fails":
                await session.commit()
                raise HTTPException(409)
            return task_id
    else:

        @app.post("/orders/{name}")
        def create_plainly(name: str, tasks: ManagedBackgroundTasks, session: Any = Depends(plain)) -> str:
            task_id = order(tasks, name, session)
            if name == "commits-and-fails":
                session.commit()
                raise HTTPException(409)
            return task_id

    with TestClient(app, raise_server_exceptions=False) as client:
        yield client, manager, shipped
        client.portal.call(database.close)  # type: ignore[union-attr]


def test_a_route_whose_dependency_commits_runs_its_task_exactly_if_that_commits(
    shop: tuple[TestClient, TaskManager, list[str]],
) -> None:
    client, manager, shipped = shop
    portal = client.portal
    assert portal is not None
    first = client.post("/orders/first").json()
    assert client.post("/orders/fails").status_code == 409
    # The response is there, and the dependency cannot commit.
    spoiled = client.post("/orders/spoils")
    assert client.post("/orders/commits-and-fails").status_code == 409
    portal.call(manager.wait, first, WAIT)
    wait_until(lambda: sorted(shipped) == ["commits-and-fails", "first"], "both orders")
    if spoiled.status_code == 200:
        with pytest.raises(TaskNotFoundError):
            portal.call(manager.get, spoiled.json())
    wait_until(lambda: not manager.store.list(), "the end of both, and no other task")
