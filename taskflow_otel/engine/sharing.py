"""Builds what an engine needs for shared queues: the pool, and the services around it."""

from __future__ import annotations

from collections.abc import Collection

from taskflow_otel.backends.pool import KeepsPool, News, RingsForPool
from taskflow_otel.backends.transactions import KeepsTransactions
from taskflow_otel.engine.control import Control
from taskflow_otel.engine.deployment import Deployment
from taskflow_otel.engine.dispatch import Dispatcher
from taskflow_otel.engine.fleet.board import Board
from taskflow_otel.engine.fleet.doorbells import Doorbells
from taskflow_otel.engine.fleet.news import PoolNews
from taskflow_otel.engine.fleet.pool import Pool
from taskflow_otel.engine.fleet.pool_objectives import PoolObjectives
from taskflow_otel.engine.fleet.pool_watch import PoolWatch
from taskflow_otel.engine.fleet.remote_cancels import RemoteCancels
from taskflow_otel.engine.intake import Intake
from taskflow_otel.engine.life import Life
from taskflow_otel.engine.lifecycle import Lifecycle
from taskflow_otel.engine.live import LiveTasks
from taskflow_otel.engine.lookup import Lookup
from taskflow_otel.engine.membership import Membership
from taskflow_otel.engine.objectives import ObjectiveWatch
from taskflow_otel.engine.queues import Queues
from taskflow_otel.engine.registry import TaskRegistry
from taskflow_otel.engine.transactions import Transactions
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.owned_tasks import OwnedTasks
from taskflow_otel.runtime.service import Service

_RARELY = 15.0
"""Seconds between two looks at the pool for tasks whose queue is not shared here, where only an earlier deployment can
have put them there."""


class Sharing:
    """The parts that share work with other instances.

    `shared`: the names of the shared queues. `durable`: what an earlier process has put into the pool may be there.
    """

    def __init__(
        self,
        backend: KeepsPool,
        shared: Collection[str],
        deployment: Deployment,
        queues: Queues,
        dispatcher: Dispatcher,
        intake: Intake,
        registry: TaskRegistry,
        tasks: LiveTasks,
        lifecycle: Lifecycle,
        control: Control,
        cancels: RemoteCancels,
        objectives: ObjectiveWatch,
        lookup: Lookup,
        board: Board,
        transactions: Transactions,
        clock: Clock,
        membership: Membership,
        life: Life,
        background: OwnedTasks,
        *,
        durable: bool,
        interval: float,
        seals: Collection[str],
    ) -> None:
        store = backend.pool_store
        strays = interval if isinstance(backend, KeepsTransactions) else _RARELY if durable else None
        pool = Pool(
            store,
            queues,
            dispatcher,
            intake,
            registry,
            tasks,
            lifecycle,
            control.stop,
            clock,
            membership,
            life,
            background,
            seals=seals,
            concurrency=deployment.concurrency,
            strays=strays,
            noticed=transactions.noticed,
            ring=lambda records: self.doorbells.ring(records),
        )
        self.doorbells: Doorbells = Doorbells(
            queues, store.depth, lookup.page, pool.answer, board, clock, membership, life
        )
        """The messages that tell Celery of tasks in the pool."""
        dispatcher.connect_pool(pool.share, pool.freed)
        control.connect(pool.claim_one)
        transactions.connect(control.stop, pool.look, self.doorbells.ring)
        self.pool: Pool = pool
        """Whether or not it is one of the services."""
        self.services: list[Service] = []
        if shared or strays is not None:
            self.services.append(pool)
        if any(map(deployment.claims, shared)) and isinstance(backend, RingsForPool):
            news = PoolNews(backend.pool_bell, News(pool.look, cancels.look), clock)
            pool.connect_news(lambda: news.hears)
            self.services.append(news)
        if any(queue.by_doorbell for queue in queues.all()):
            self.services.append(self.doorbells)
        self.watch: PoolWatch | None = None
        """What waits in the pool, if anything can."""
        self.judging: PoolObjectives | None = None
        """Judges what waits there."""
        if shared or durable:
            self.watch = PoolWatch(store, queues, board.read, pool.claims, clock, interval if shared else _RARELY)
            self.services.append(self.watch)
        if shared and (watch := self.watch) is not None:
            cancels.connect(lambda: bool(watch.waiting()))
            self.judging = PoolObjectives(
                objectives,
                lookup.page,
                lookup.get_all,
                board.read,
                membership,
                watch.waiting,
                pool,
                control.stop,
                clock,
                interval,
            )
            pool.connect(self.judging.remember)
            objectives.connect(self.judging.overdue)
            self.services.append(self.judging)

    @property
    def finders(self) -> list[Service]:
        """What finds what is due, in this order."""
        # The pool last: its tasks are taken while nothing else is due.
        return [one for one in (self.watch, self.judging, self.pool) if one is not None]
