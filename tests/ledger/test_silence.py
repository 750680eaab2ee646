"""A network that is silent for less than a lease costs no instance its tasks, whatever becomes of its connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
from sqlalchemy import make_url

from taskflow_otel import TaskManager, TaskStatus
from taskflow_otel.backends import Backend, MySQLBackend, PostgresBackend, RedisBackend
from taskflow_otel.backends.limits import LeaseAware
from taskflow_otel.errors import BackendUnavailableError
from taskflow_otel.model.query import TaskQuery
from tests.managers import Gate, finish, started
from tests.relay import Relay
from tests.waiting import eventually

LEASE = 12.0
KINDS: dict[str, tuple[str, Callable[..., Backend]]] = {
    "postgres": ("postgres_url", PostgresBackend),
    "mysql": ("mariadb_url", MySQLBackend),
    "redis": ("redis_url", RedisBackend),
}


class Member:
    """An instance that can run two kinds of tasks: one waits for its gate, one ends at once."""

    def __init__(self, backend: Backend) -> None:
        self.gate = Gate()
        self.manager = TaskManager(snapshot_backend=backend, lease_seconds=LEASE)
        self.held = self.manager.task(name="held", persist=True)(self.gate.run)
        self.quick = self.manager.task(name="quick", persist=True)(_quick)


async def _quick() -> None: ...


@dataclass
class Scene:
    """A member behind a relay, with a running task, and a neighbour that would take its tasks over."""

    member: Member
    relay: Relay
    task_id: str
    instance_id: str
    caplog: pytest.LogCaptureFixture

    async def heartbeat_missed(self) -> None:
        """Wait for a heartbeat to get no answer in its time, a third of the lease."""
        await eventually(lambda: "the heartbeat service failed" in self.caplog.text, "a heartbeat without an answer")

    async def heartbeat_back(self) -> None:
        """Wait for a heartbeat to succeed again."""
        await eventually(lambda: "the heartbeat service works again" in self.caplog.text, "the next heartbeat")

    async def check_commits(self) -> None:
        """A commit is answered, by the same instance: one that takes longer than its five seconds raises here."""
        manager = self.member.manager
        assert (await finish(manager, await manager.enqueue(self.member.quick))).status is TaskStatus.SUCCESS
        assert manager.engine.instance_id == self.instance_id

    async def check_task(self) -> None:
        """The running task ends as if nothing had happened."""
        self.member.gate.opened.set()
        record = await finish(self.member.manager, self.task_id)
        assert (record.status, record.crashes, record.instance) == (TaskStatus.SUCCESS, 0, self.instance_id)


@pytest.fixture(params=KINDS)
async def scene(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Scene]:
    fixture, make_backend = KINDS[request.param]
    url = make_url(request.getfixturevalue(fixture))
    assert url.port is not None
    async with Relay(url.port) as relay:
        neighbour = Member(make_backend(url.render_as_string(hide_password=False)))
        member = Member(make_backend(url.set(port=relay.port).render_as_string(hide_password=False)))
        async with started(neighbour.manager), started(member.manager) as manager:
            task_id = await manager.enqueue(member.held)
            await member.gate.entered.wait()
            # Fills the pool: each of its connections was in use.
            await asyncio.gather(*(manager.engine.lookup.page(TaskQuery()) for _ in range(20)))
            yield Scene(member, relay, task_id, manager.engine.instance_id, caplog)
            member.gate.opened.set()
            relay.resume()


async def test_a_silence_of_less_than_the_lease_costs_no_task_its_attempt(scene: Scene) -> None:
    scene.relay.silence()
    await scene.heartbeat_missed()
    scene.relay.resume()
    await scene.heartbeat_back()
    await scene.check_commits()
    await scene.check_task()
    scene.relay.drop()
    await scene.check_commits()


async def test_connections_that_stay_silent_are_replaced_within_the_lease(scene: Scene) -> None:
    scene.relay.lose()
    await scene.heartbeat_missed()
    await scene.heartbeat_back()
    await scene.check_commits()
    await scene.check_task()


@pytest.mark.parametrize("kind", KINDS)
async def test_all_dead_connections_of_a_pool_cost_one_time_limit_together(
    request: pytest.FixtureRequest, kind: str
) -> None:
    fixture, make_backend = KINDS[kind]
    url = make_url(request.getfixturevalue(fixture))
    assert url.port is not None
    async with Relay(url.port) as relay:
        backend = make_backend(url.set(port=relay.port).render_as_string(hide_password=False))
        assert isinstance(backend, LeaseAware)
        # An operation may take two seconds.
        backend.use_lease(6.0)
        await backend.open()
        await asyncio.gather(*(backend.get("nothing") for _ in range(20)))
        dead = relay.connections
        assert dead > 3
        relay.lose()
        with pytest.raises(BackendUnavailableError):
            await backend.get("nothing")
        assert await asyncio.gather(*(backend.get("nothing") for _ in range(20))) == [None] * 20
        await backend.close()
