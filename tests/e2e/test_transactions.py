"""Tasks in transactions of callers, in real routes and in processes that are killed: what was committed is executed.

python -m tests.e2e.test_transactions URL NUMBER     # the storm with this number of transactions, on an empty database
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from taskflow_otel import ManagedBackgroundTasks, TaskAdmin, TaskManager
from taskflow_otel.errors import TaskNotFoundError
from taskflow_otel.request.current import current_request
from tests.apps.transactions_app import POINTS
from tests.callers import DRIVERS, Database
from tests.managers import WAIT
from tests.procs import ROOT
from tests.servers import spawn
from tests.waiting import wait_until


def storm(url: str, directory: Path, number: int) -> tuple[Counter[int], set[int]]:
    """Add tasks, with a kill at each point; return how often each order was shipped, and the stored orders."""
    notes, log = directory / "notes", directory / "app.log"
    environment = {**os.environ, "APP_NOTES": str(notes)}
    share = number // (len(POINTS) + 1)
    for place, point in enumerate((*POINTS, "")):
        command = [sys.executable, "-m", "tests.apps.transactions_app", url, str(place * share), str(share), point]
        process = spawn(command, cwd=ROOT, log_path=log, env=environment)
        code = process.wait(timeout=250)
        assert code == (-9 if point else 0), f"{point}: {code}\n{log.read_text()[-4000:]}"
    parsed = make_url(url)
    kind = parsed.get_backend_name().replace("mariadb", "mysql")
    engine = create_engine(parsed.set(drivername=f"{kind}+{DRIVERS[kind][0]}"))
    with engine.connect() as connection:
        orders = set(connection.scalars(text("SELECT id FROM orders")))
    engine.dispose()
    return Counter(map(int, notes.read_text().split())), orders


@pytest.mark.parametrize("server", ["sqlite", "postgres", "mariadb"])
def test_exactly_the_committed_orders_are_shipped_whenever_a_process_is_killed(
    request: pytest.FixtureRequest, tmp_path: Path, server: str
) -> None:
    url = f"sqlite:///{tmp_path / 'tasks.db'}" if server == "sqlite" else request.getfixturevalue(f"{server}_url")
    shipped, orders = storm(url, tmp_path, 80)
    assert shipped.keys() == orders
    assert len(orders) >= 20


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
    assert not manager.store.list()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        shipped, orders = storm(sys.argv[1], Path(place), int(sys.argv[2]))
        twice = sum(number > 1 for number in shipped.values())
        sys.stdout.write(f"{len(orders)} committed, {len(shipped)} executed, {twice} of them twice\n")
        raise SystemExit(shipped.keys() != orders)
