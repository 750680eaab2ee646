"""Stacks of running tasks that are asked for on another instance than the one that runs them."""

from __future__ import annotations

from taskflow_otel.backends.base import Backend
from taskflow_otel.engine.life import Life, at_home
from taskflow_otel.engine.lookup import Lookup
from taskflow_otel.engine.membership import Membership
from taskflow_otel.engine.stacks import Stacks
from taskflow_otel.errors import TaskStateError
from taskflow_otel.model.plain import plain_text
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.vocabulary import InstanceState
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.service import Service

_PREFIX = "stack:"
_TIDY_ROUNDS = 300
_MAX_NAME = 100


class StackRequests(Service):
    """Asks the instance that runs a task for its stack, and answers what others ask of this one.

    A request is a setting in the backend, which the asked instance deletes. The answer is an entry of the task's log.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        interval: float,
        membership: Membership,
        life: Life,
        lookup: Lookup,
        stacks: Stacks,
    ) -> None:
        super().__init__("stack-requests", interval, clock)
        self._backend = backend
        self._membership = membership
        self.life = life
        self._lookup = lookup
        self._stacks = stacks
        self._rounds_done = 0

    @at_home
    async def ask(self, task_id: str, by: str | None = None) -> None:
        """Have the stack of a running task written into its log: at once, or by another instance within its next round.

        `by`: who asks. Raises `TaskNotFoundError`, and `TaskStateError` if the task does not run.
        """
        name = None if by is None else plain_text(by, _MAX_NAME)
        if self._stacks.remember_asked(task_id, name):
            return
        record = await self._lookup.get(task_id)
        if record.status is not TaskStatus.RUNNING:
            raise TaskStateError(f"task {task_id} is {record.status} and has no stack; only one that runs has")
        if record.instance == self._membership.instance.instance_id:
            raise TaskStateError(f"task {task_id} has just ended and has no stack any more")
        await self._backend.put_setting(f"{_PREFIX}{record.instance}:{task_id}", name or "")

    async def tick(self) -> None:
        """Answer what was asked of this instance; now and then, forget what was asked of instances that are gone."""
        own = f"{_PREFIX}{self._membership.instance.instance_id}:"
        for key, name in (await self._backend.settings(own)).items():
            # First: a request that fails must not come again in each round.
            await self._backend.put_setting(key, None)
            self._stacks.remember_asked(key.removeprefix(own), name or None)
        self._rounds_done += 1
        if self._rounds_done % _TIDY_ROUNDS == 0:
            known = await self._backend.instances()
            alive = {one.instance_id for one in known if one.state == InstanceState.ALIVE}
            for key in await self._backend.settings(_PREFIX):
                if key.removeprefix(_PREFIX).partition(":")[0] not in alive:
                    await self._backend.put_setting(key, None)
