"""The sessions of callers in whose transactions tasks are added: they stay as they would be without any task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from sqlalchemy import inspect
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, registry

from taskflow_otel import ManagedBackgroundTasks
from tests.engine.test_transactions import ORDERS, SERVERS, shop_on
from tests.managers import finish


class Order:
    """An object of the application."""

    def __init__(self, id: int) -> None:
        self.id = id


registry().map_imperatively(Order, ORDERS)


async def _do(session: Session | AsyncSession, work: Callable[[Session], Any]) -> Any:
    """As in a route of its kind: `def` in a thread, `async def` on the loop."""
    if isinstance(session, AsyncSession):
        return await session.run_sync(work)
    return await asyncio.to_thread(work, session)


@pytest.mark.parametrize("server", SERVERS)
async def test_objects_expire_as_the_session_says_and_a_flush_that_fails_in_the_commit_leaves_no_task(
    request: pytest.FixtureRequest, server: str
) -> None:
    async with shop_on(request, server) as shop:
        tasks, ran = ManagedBackgroundTasks(shop.manager), list[int]()
        for number, (plain, expires) in enumerate(product([True, False], repeat=2), start=1):
            session: Any = (
                Session(shop.database.engine, expire_on_commit=expires)
                if plain
                else AsyncSession(shop.database.async_engine, expire_on_commit=expires)
            )

            def add(own: Session, session: Any = session, number: int = number) -> tuple[Order, str]:
                own.add(order := Order(number))
                return order, tasks.add_task(shop.work, number, session=session)

            def commit(own: Session) -> None:
                own.commit()

            if plain:
                order, task_id = await asyncio.to_thread(add, session)
            else:
                order, task_id = add(session.sync_session)
            await _do(session, commit)
            own = session if plain else session.sync_session
            # The search for the end of the transaction has not begun another one, nor loaded the object again.
            assert not own.in_transaction()
            assert (order in own, bool(inspect(order).expired)) == (True, expires)
            await finish(shop.manager, task_id)
            ran.append(number)
            own.expunge_all()
            if plain:
                _, lost = await asyncio.to_thread(add, session)
            else:
                _, lost = add(session.sync_session)
            with pytest.raises(IntegrityError):
                await _do(session, commit)
            await _do(session, lambda own: own.rollback())
            await shop.gone(lost)
            await _do(session, lambda own: own.close())
        await shop.check(*ran)
