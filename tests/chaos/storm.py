"""The storm: load over HTTP on several real server processes, and everything that can happen to them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import tempfile
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx

from taskflow_otel.backends import Backend
from taskflow_otel.errors import BackendError
from taskflow_otel.model.query import TaskQuery
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.status import TaskStatus
from tests.chaos.backends import make_backend
from tests.chaos.books import Acknowledgement, Answers, Refusal, read_notes
from tests.chaos.check import Check
from tests.chaos.crash_points import (
    DRAIN,
    arm,
    disarm,
)
from tests.chaos.doorbells import BROKER, TWICE
from tests.chaos.fleet import CELERY, WEB, WORKER, Member
from tests.chaos.kinds import KINDS
from tests.chaos.plan import (
    BROKERS,
    CHILD,
    KILL,
    KILL_IN_DRAIN,
    LEAVE,
    PAUSE,
    POOLED,
    REST,
    SERVERS,
    SHORT_PAUSE,
    STOPS,
    Plan,
)
from tests.chaos.report import Report
from tests.chaos.shaking import Shaker, of_broker
from tests.chaos.witnesses import Witnesses
from tests.read_only import url_that_obeys
from tests.records import every_record
from tests.servers import PgBouncerServer, PostgresServer, Server

_OPTIONS = {"mysql": {"max-allowed-packet": "512K"}}
LEASE = 2.0
SETTLED = 10.0
"""Seconds after which a living process has taken back what it refused; more than its longest backoff."""
BLOCKED = 8.0
"""Seconds for which an instance that stopped may keep others from committing: its lease, and two commits that fail."""
TOO_LARGE = 900_000
"""Characters of an argument that MariaDB, with the packets that it is given here, refuses for good."""
_SIZES = (1_000, 100_000, TOO_LARGE)
_HELD = 14.0
"""Seconds for which a process is stopped inside a transaction: much longer than it may block others."""
_GAVE_UP = "Could not start worker processes"
"""What a Celery worker says when it ends because a child was killed while it connected to the broker again."""
_POINT_WAIT = 6.0
_DRAIN_WAIT = 30.0


@dataclass(slots=True)
class Tally:
    """What was done to the fleet."""

    kills: Counter[str] = field(default_factory=Counter)
    by_kind: Counter[str] = field(default_factory=Counter)
    """The kills, by kind of process."""
    others: Counter[str] = field(default_factory=Counter)


class Storm:
    """One storm over one backend at `url`; `servers` are the processes of its database, `broker` is Celery's."""

    def __init__(
        self, plan: Plan, directory: Path, url: str, servers: Sequence[Server], broker: Server | None = None
    ) -> None:
        self._plan = plan
        self._draw = random.Random(plan.seed)
        self._url = url
        self._shaker = Shaker(servers, self._draw) if servers and plan.shaken else None
        self._broker_shaker = Shaker([broker], self._draw, of_broker) if broker and plan.shaken else None
        self._broker = broker
        self._notes = directory / "notes.txt"
        self._tally = Tally()
        self._answers = Answers()
        self._numbers = itertools.count(1)
        self._keys: deque[str] = deque(maxlen=20)
        self._decks = {kind: self._shuffled(plan.deck(kind)) for kind in (WEB, WORKER, CELERY)}
        self._over = asyncio.Event()
        self._one_stopped = asyncio.Lock()
        environment = {
            "CHAOS_BACKEND": plan.backend,
            "CHAOS_URL": url,
            "CHAOS_NOTES": str(self._notes),
            "CHAOS_LEASE": str(LEASE),
        }
        # Metrics of servers with a planted fault need not agree, and would be waited for.
        self._witnesses = Witnesses(directory) if plan.planted is None else None
        if plan.planted is not None:
            environment["CHAOS_FAULT"] = plan.planted
        if self._witnesses is not None:
            environment |= self._witnesses.environment
        kinds = [WEB] * plan.members + [WORKER if broker is None else CELERY] * plan.workers
        runs = {WEB: "none", WORKER: "pool"} if WORKER in kinds else {}
        if broker is not None:
            environment[BROKER] = broker.url
            if plan.twice:
                environment[TWICE] = "1"
        self._members = [
            Member(number, directory, {**environment, "TASKFLOW_RUN": runs.get(kind, "here")}, kind)
            for number, kind in enumerate(kinds)
        ]
        self._blocked_since: dict[int, float] = {}
        """Since when each process has refused everything, on the monotonic clock."""
        self._drained: set[int] = set()
        """The processes that ended in order while nothing else was in trouble: they have left no attempt open."""
        self._disturbed_at = 0.0
        """When a process was last killed or stopped: on SQLite it may have held the one write lock."""

    async def run(self) -> Report:
        """Let the storm pass, let a clean instance finish what is left, and compare the ledger with the books."""
        began = time.monotonic()
        try:
            if self._witnesses is not None:
                await self._witnesses.start([member for member in self._members if member.kind != CELERY])
            await asyncio.gather(*(member.start() for member in self._members))
            load = [asyncio.create_task(self._client()) for _ in range(self._plan.clients)]
            trouble = [
                asyncio.create_task(self._torment(member)) for member in self._members if self._plan.deck(member.kind)
            ]
            trouble += [asyncio.create_task(shaker.run(self._over)) for shaker in self._shakers]
            for job in (*load, *trouble):
                # If one fails, the others must not run for the rest of the time.
                job.add_done_callback(lambda _: self._over.set())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), self._plan.seconds)
            self._over.set()
            await asyncio.gather(*trouble)
            await asyncio.gather(*load)
            for member in self._members:
                await self._kill(member, KILL)
            stormed = time.monotonic() - began
            records, counted = await self._aftermath()
        finally:
            for member in self._members:
                member.signal(signal.SIGKILL)
            if self._witnesses is not None:
                self._witnesses.close()
        executions = read_notes(self._notes)
        for shaker in self._shakers:
            self._tally.others.update(shaker.tally)
        findings = Check(
            self._answers,
            executions,
            records,
            self._died_soon,
            frozenset(self._drained),
        ).run()
        return Report.make(
            self._plan.backend,
            self._plan.arrangement,
            self._plan.seed,
            stormed,
            self._tally.kills,
            self._tally.by_kind,
            self._tally.others + Counter({"failed start": sum(member.failed_starts for member in self._members)}),
            self._answers,
            executions,
            records,
            counted,
            findings,
            self._witnesses,
        )

    @property
    def _shakers(self) -> list[Shaker]:
        return [shaker for shaker in (self._shaker, self._broker_shaker) if shaker is not None]

    def _shuffled(self, faults: Sequence[str]) -> Iterator[str]:
        """Every fault once (or as often as the deck holds it) before any comes again."""
        while True:
            deck = list(faults)
            self._draw.shuffle(deck)
            yield from deck

    async def _client(self) -> None:
        """Add tasks, one request after the other, on any member that is up."""
        kinds = [KINDS[name] for name in self._plan.kinds]
        weights = [kind.share for kind in kinds]
        async with httpx.AsyncClient(timeout=8) as client:
            while not self._over.is_set():
                [kind] = self._draw.choices(kinds, weights)
                key = self._key() if kind.keyed else None
                # One key from several sides at once.
                await asyncio.gather(*(self._request(client, kind.name, key) for _ in range(3 if kind.keyed else 1)))
                await asyncio.sleep(self._draw.uniform(0, 2 * self._plan.pace))

    def _key(self) -> str:
        """A new key, or one of the last few: its task may be waiting, running, done or interrupted by now."""
        if self._keys and self._draw.random() < 0.5:
            return self._draw.choice(self._keys)
        self._keys.append(f"key-{next(self._numbers)}")
        return self._keys[-1]

    async def _request(self, client: httpx.AsyncClient, kind: str, key: str | None) -> None:
        up = [member for member in self._members if member.up and member.kind == WEB]
        if not up:
            return
        member = self._draw.choice(up)
        number, pid, sent_at = next(self._numbers), member.pid, datetime.now(UTC)
        way = self._draw.choice(["failing", "failing-commit"]) if KINDS[kind].fails else "jobs"
        if way != "jobs":
            self._answers.failed[number] = way
        size = self._draw.choice(_SIZES) if kind == "large" else 0
        params: dict[str, str | int] = {"key": key} if key else {"size": size} if size else {}
        try:
            answer = await client.post(f"{member.url}/{way}/{kind}/{number}", params=params)
        except httpx.TransportError:
            self._answers.unanswered += 1
            return
        match answer.status_code:
            case 200 if way == "jobs":
                self._blocked_since.pop(pid, None)
                task_id = answer.json()["task_id"]
                self._answers.acknowledged.append(Acknowledgement(task_id, number, kind, key, sent_at))
            case 409 if way != "jobs":
                pass
            case 422 if size == TOO_LARGE:
                self._answers.refuse(number, pid)
            case 503:
                self._answers.refuse(number, pid)
                if size != TOO_LARGE:
                    self._blocked(member, pid)
            case status:
                self._unexpected(f"request {number} ({kind}): {status} {answer.text[:500]}")

    def _blocked(self, member: Member, pid: int) -> None:
        """A refusal: of a process that nothing was done to, on a database in good health, they must not last."""
        now = time.monotonic()
        since = self._blocked_since.setdefault(pid, now)
        troubled = max(member.troubled_at[pid], default=0.0)
        shaken = self._shaker.shaken_at if self._shaker is not None else 0.0
        if self._plan.backend == "sqlite":
            # The stopped process may hold the one write lock of the file: docs/guarantees.md says so.
            troubled = max([troubled, *(at for one in self._members for ats in one.troubled_at.values() for at in ats)])
        if now - max(since, troubled, shaken) > BLOCKED:
            self._blocked_since[pid] = now
            self._unexpected(
                f"process {pid} has answered nothing but 503 for {now - since:.1f} s, though only others had trouble"
            )

    def _unexpected(self, what: str) -> None:
        self._answers.unexpected.append(what)
        if self._plan.until_unexpected:
            self._over.set()

    async def _torment(self, member: Member) -> None:
        """One thing after the other happens to one member, until the storm is over."""
        while not self._over.is_set():
            await asyncio.sleep(self._draw.uniform(0, 0.8))
            await self._strike(member, next(self._decks[member.kind]))
            if _gave_up(member):
                self._tally.others["Celery gave up"] += 1
            if not (member.up and member.running):
                await member.start()
            if self._tally.kills.total() >= self._plan.kills:
                self._over.set()

    async def _strike(self, member: Member, fault: str) -> None:
        if fault == REST:
            await asyncio.sleep(2 * LEASE)
        elif fault == KILL:
            await self._kill(member, fault)
        elif fault == CHILD:
            await self._kill_child(member)
        elif fault == KILL_IN_DRAIN:
            member.signal(signal.SIGTERM)
            if await member.ended(self._draw.uniform(0, 1)):
                self._tally.others[LEAVE] += 1
            else:
                await self._kill(member, fault)
        elif fault == PAUSE:
            await self._pause(member, fault, self._draw.uniform(*self._plan.pauses) * LEASE)
        elif fault == SHORT_PAUSE:
            await self._pause(member, fault, self._draw.uniform(0.1, 0.5) * LEASE)
        elif fault == LEAVE:
            await self._leave(member)
        elif fault in STOPS:
            await self._stop_in_transaction(member, fault)
        elif member.kind == CELERY:
            await self._crash_child_at(member, fault)
        else:
            await self._crash_at(member, fault)

    async def _stop_in_transaction(self, member: Member, point: str) -> None:
        if self._one_stopped.locked():
            # At least one other process must remain.
            await asyncio.sleep(1)
            return
        async with self._one_stopped:
            arm(member.armed, point)
            stopped = await member.stopped(_POINT_WAIT)
            disarm(member.armed)
            if not stopped:
                self._tally.others["point not reached"] += 1
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), _HELD)
            # Two children may have reached the point.
            for pid in member.runners:
                member.signal_one(pid, signal.SIGCONT)
            member.up = True
            self._tally.others[point] += 1

    async def _kill(self, member: Member, what: str) -> None:
        self._disturbed_at = time.monotonic()
        runners = member.runners
        member.signal(signal.SIGKILL)
        await member.ended(10)
        if not await member.all_ended(runners, 10):
            self._unexpected(f"children {runners} have outlived their worker: {member.log_path}")
        self._killed(member, what)

    async def _kill_child(self, member: Member) -> None:
        if runners := member.runners:
            self._disturbed_at = time.monotonic()
            member.signal_one(self._draw.choice(runners), signal.SIGKILL)
            self._killed(member, CHILD)

    async def _crash_child_at(self, member: Member, point: str) -> None:
        runners = member.runners
        arm(member.armed, point)
        ended = await member.one_ended(runners, _POINT_WAIT)
        disarm(member.armed)
        if ended:
            self._disturbed_at = time.monotonic()
            self._killed(member, point)
        else:
            self._tally.others["point not reached"] += 1

    def _killed(self, member: Member, what: str) -> None:
        self._tally.kills[what] += 1
        self._tally.by_kind[member.kind] += 1

    async def _pause(self, member: Member, what: str, seconds: float) -> None:
        runners = member.runners
        if not runners:
            return
        # A worker of Celery has more than one, and remains.
        paused = self._draw.choice(runners)
        member.up = member.kind == CELERY
        member.signal_one(paused, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self._disturbed_at = time.monotonic()
        member.signal_one(paused, signal.SIGCONT)
        member.up = True
        self._tally.others[what] += 1

    async def _leave(self, member: Member) -> None:
        shaken = self._last_shaken
        calm = time.monotonic() - max(self._disturbed_at, shaken) > BLOCKED
        runners = member.runners
        member.signal(signal.SIGTERM)
        if not await member.ended(_DRAIN_WAIT):
            await self._drain_hangs(member)
        elif member.exit_code == -signal.SIGKILL:
            # A crash point that is a stretch of time was reached just before.
            self._killed(member, KILL)
        elif not _gave_up(member):
            self._tally.others[LEAVE] += 1
            if calm and self._last_shaken == shaken:
                self._drained.update(runners)
            # Once uvicorn has shut down in order, it raises the signal that it was sent again.
            if member.exit_code not in (0, -signal.SIGTERM):
                self._unexpected(f"a drain ended with {member.exit_code}: {member.log_path}")

    @property
    def _last_shaken(self) -> float:
        return max((shaker.shaken_at for shaker in self._shakers), default=0.0)

    async def _drain_hangs(self, member: Member) -> None:
        self._unexpected(f"a drain did not end in {_DRAIN_WAIT:g} s: {member.log_path}")
        member.signal(signal.SIGUSR1)
        await member.ended(1)
        await self._kill(member, LEAVE)

    async def _crash_at(self, member: Member, point: str) -> None:
        arm(member.armed, point)
        if point == DRAIN:
            member.signal(signal.SIGTERM)
        ended = await member.ended(_DRAIN_WAIT if point == DRAIN else _POINT_WAIT)
        disarm(member.armed)
        if not ended and point == DRAIN:
            await self._drain_hangs(member)
        elif not ended:
            self._tally.others["point not reached"] += 1
        elif member.exit_code == -signal.SIGKILL:
            self._killed(member, point)
        else:
            self._tally.others[LEAVE] += 1

    async def _aftermath(self) -> tuple[dict[str, TaskRecord], int]:
        """Everything stored, after one clean instance has worked off what the storm has left, and its own count."""
        # The last one is a worker, if there are any; one of Celery has no page of metrics.
        survivors = [self._members[-1]] if self._broker is None else [self._members[0], self._members[-1]]
        for survivor in survivors:
            disarm(survivor.armed)
            await survivor.start()
        async with opened(self._plan.backend, self._url) as backend:
            deadline = time.monotonic() + self._plan.last_work
            while time.monotonic() < deadline:
                with contextlib.suppress(BackendError):
                    left = (await backend.counts(TaskQuery())).by_status
                    if not left.get(TaskStatus.PENDING) and not left.get(TaskStatus.RUNNING):
                        break
                await asyncio.sleep(0.2)
            if self._witnesses is not None:
                await self._witnesses.compare(backend, survivors)
            for survivor in reversed(survivors):
                await self._leave(survivor)
            return await every_record(backend), (await backend.counts(TaskQuery())).total

    def _died_soon(self, refusal: Refusal) -> bool:
        troubles = (at for member in self._members for at in member.troubled_at[refusal.pid])
        return any(0 <= at - refusal.at < SETTLED for at in troubles)


def _gave_up(member: Member) -> bool:
    """Whether a Celery worker has ended by itself; like a supervisor, the storm starts it again."""
    return member.kind == CELERY and member.exit_code == 1 and _GAVE_UP in member.log_path.read_text(errors="replace")


@contextlib.asynccontextmanager
async def opened(name: str, url: str) -> AsyncIterator[Backend]:
    """The backend of this name, open."""
    backend = make_backend(name, url)
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


def run_storm(plan: Plan, directory: Path | None = None) -> Report:
    """Start the database, let the storm pass over it, and report. Files are kept in `directory`, if given."""
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taskflow-chaos-")))
        servers: list[Server] = []
        if plan.backend == POOLED:
            database = stack.enter_context(PostgresServer())
            servers = [database, stack.enter_context(PgBouncerServer(database))]
        elif plan.backend in SERVERS:
            servers = [stack.enter_context(SERVERS[plan.backend](_OPTIONS.get(plan.backend)))]
        url = url_that_obeys(servers[-1], servers[-1].fresh_url()) if servers else str(directory / "tasks.db")
        broker = None if plan.broker is None else stack.enter_context(BROKERS[plan.broker]())
        return asyncio.run(Storm(plan, directory, url, servers, broker).run())
