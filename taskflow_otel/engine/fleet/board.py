"""What each instance says of itself, so that any of them can show the fleet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import timedelta

import msgspec

from taskflow_otel.backends.base import Backend
from taskflow_otel.engine import releases
from taskflow_otel.engine.life import Life, at_home
from taskflow_otel.engine.membership import Membership
from taskflow_otel.engine.queues import QueueStats
from taskflow_otel.model.board import QueueLoad, ReleaseMark, Said, ScheduleTrouble
from taskflow_otel.model.schedule import ScheduleStatus
from taskflow_otel.model.vocabulary import InstanceKind, InstanceState
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.readable import Readable
from taskflow_otel.runtime.service import Service

logger: logging.Logger = logging.getLogger("taskflow_otel.engine")

_PREFIX = "board:"
_TIDY_ROUNDS = 300
_encode, _decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(Said).decode


class Board(Service):
    """Stores the load of this instance when it has changed, one small setting, and reads that of all living ones."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        interval: float,
        membership: Membership,
        life: Life,
        queues: Callable[[], Mapping[str, QueueStats]],
        schedules: Callable[[], Iterable[ScheduleStatus]],
        *,
        kind: InstanceKind = InstanceKind.WEB,
        release: str = "",
    ) -> None:
        super().__init__("board", interval, clock)
        self._backend = backend
        self._clock = clock
        self._membership = membership
        self.life = life
        self._queues = queues
        self._schedules = schedules
        self.kind: InstanceKind = kind
        """What this process was started as."""
        self._release = release
        self._readable = Readable(logger)
        self._written: tuple[str, str] | None = None
        self._marked = not release
        self._rounds_done = 0

    async def tick(self) -> None:
        """Store what is different since the last time; now and then, forget instances that are gone."""
        if not self._marked:
            await self._mark()
        key, text = self._key, _encode(self._say()).decode()
        if self._written != (key, text):
            await self._backend.put_setting(key, text)
            self._written = key, text
        self._rounds_done += 1
        if self._rounds_done % _TIDY_ROUNDS == 0:
            alive = await self._alive()
            gone = [key for key in await self._backend.settings(_PREFIX) if key.removeprefix(_PREFIX) not in alive]
            marks = await self._backend.settings(releases.PREFIX)
            now, ran = self._clock.now(), await self._backend.settings(releases.RAN_PREFIX)
            ran = {key: text for key, text in ran.items() if key.removeprefix(releases.RAN_PREFIX) not in alive}
            for known in [*gone, *releases.outdated(marks, now), *releases.forgotten(ran, now)]:
                await self._backend.put_setting(known, None)

    async def finish(self) -> None:
        """Take down what this instance said."""
        if self._written is not None:
            self._written = None
            await self._backend.put_setting(self._key, None)

    @at_home
    async def read(self) -> dict[str, Said]:
        """What each living instance says, by its id; this one as it is now, the others as they were a moment ago."""
        said = {self._membership.instance.instance_id: self._say()}
        alive = await self._alive()
        for key, text in (await self._backend.settings(_PREFIX)).items():
            instance_id = key.removeprefix(_PREFIX)
            if instance_id in alive and instance_id not in said:
                found = self._readable.read(key, _decode, text)
                if found is not None:
                    said[instance_id] = found
        return said

    @at_home
    async def releases(self) -> list[ReleaseMark]:
        """When each release of the application was first seen, the oldest first; one that came back is there again."""
        return releases.marks_of(await self._backend.settings(releases.PREFIX))

    @at_home
    async def releases_of(self, instance_ids: Collection[str]) -> dict[str, str]:
        """The releases of these instances, as far as they are known, by their ids; they are kept for 35 days.

        Nothing is known, and nothing is read, if the release of this instance was not given.
        """
        found: dict[str, str] = {}
        for instance_id in instance_ids if self._release else ():
            key = releases.ran_key(instance_id)
            text = (await self._backend.settings(key)).get(key)
            if text is not None and (release := releases.ran_release(text)) is not None:
                found[instance_id] = release
        return found

    async def _mark(self) -> None:
        """Mark the release of this instance, if it is new."""
        own = self._membership.instance
        others = {one.release for name, one in (await self.read()).items() if name != own.instance_id}
        if releases.is_new(self._release, await self.releases(), others):
            await self._backend.put_setting(releases.key_of(own.started_at, own.instance_id), self._release)
        ran = releases.ran_text(own.started_at, self._release)
        await self._backend.put_setting(releases.ran_key(own.instance_id), ran)
        self._marked = True

    async def _alive(self) -> set[str]:
        known = await self._backend.instances()
        return {instance.instance_id for instance in known if instance.state == InstanceState.ALIVE}

    @property
    def _key(self) -> str:
        return f"{_PREFIX}{self._membership.instance.instance_id}"

    def _say(self) -> Said:
        # In whole seconds: a moment that is computed from two clocks would be different each time.
        now = self._clock.now().replace(microsecond=0)
        queues = {
            name: QueueLoad(
                stats.concurrency,
                stats.max_size,
                stats.running,
                stats.ready,
                stats.delayed,
                now - timedelta(seconds=round(stats.oldest_ready_age)) if stats.ready else None,
                stats.claimed,
            )
            for name, stats in self._queues().items()
        }
        troubles = {
            status.name: ScheduleTrouble(status.missed, status.errors, status.last_error)
            for status in self._schedules()
            if status.missed or status.errors
        }
        return Said(queues, troubles, self.kind.value, self._release or None)
