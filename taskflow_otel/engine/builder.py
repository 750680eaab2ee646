"""Builds tasks: from a call, from a finished task that is retried, from stored arguments. Callable from any thread.

Nothing here reads queues, the ledger or exporters: only the caller knows the task that was built.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import replace

from taskflow_otel.backends.base import RetryLink
from taskflow_otel.engine.executors.process_protocol import pack_call
from taskflow_otel.engine.live import LiveTask, Sealed
from taskflow_otel.engine.membership import Membership
from taskflow_otel.engine.queues import Queues
from taskflow_otel.engine.registry import TaskDefinition, TaskRegistry, function_name, refuse_ambiguous
from taskflow_otel.errors import ConfigurationError, PersistenceError, TaskArgumentError
from taskflow_otel.model.cipher import PayloadCipher, is_encrypted, seal_of
from taskflow_otel.model.enqueue import (
    NO_OPTIONS,
    EnqueueOptions,
    checked_key,
    checked_moment,
    checked_tags,
    first_reason,
)
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.options import checked_priority, flag, seconds
from taskflow_otel.model.payload import Codec
from taskflow_otel.model.plain import kept_tags
from taskflow_otel.model.record import DEFAULT_PRIORITY, DEFAULT_QUEUE, TaskRecord
from taskflow_otel.model.status import TaskStatus
from taskflow_otel.model.trace import TaskTrace
from taskflow_otel.model.vocabulary import ExecutorKind, Source
from taskflow_otel.runtime.clock import Clock

# Module-level names: the lookup of an enum member would be a call for each task.
_MANUAL, _PROCESS = Source.MANUAL, ExecutorKind.PROCESS


class TaskBuilder:
    """Turns calls into tasks.

    `durable`: the backend keeps tasks after this process has ended. `persist_all`: every declared task is persisted.
    """

    def __init__(
        self,
        registry: TaskRegistry,
        queues: Queues,
        clock: Clock,
        membership: Membership,
        *,
        cipher: PayloadCipher | None,
        durable: bool,
        persist_all: bool,
    ) -> None:
        self._registry = registry
        self._queues = queues
        self._clock = clock
        self._membership = membership
        self._cipher = cipher
        self.seals: Collection[str] = () if cipher is None else cipher.seals
        """The seals of the encrypted arguments that this process can decrypt."""
        self._durable = durable
        self._persist_all = persist_all
        self._templates: dict[TaskDefinition, TaskRecord] = {}

    def build(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: EnqueueOptions = NO_OPTIONS,
        *,
        source: Source = _MANUAL,
        persist: bool = False,
    ) -> LiveTask:
        """Build the task of one call; raises `TaskArgumentError`, `UnknownQueueError` or `ConfigurationError`.

        `persist`: it is stored even if its type is not persisted; raises `PersistenceError` for an undeclared function.
        """
        definition = self._registry.declared(func)
        if definition is None:
            definition, args, kwargs = self._registry.resolve(func, args, kwargs)
        persisted, sealed = persist or self._persists(definition), None
        if definition.codec is None:
            if options is not NO_OPTIONS:
                refuse_ambiguous(func, options)
            if persist:
                raise PersistenceError(
                    f"{definition.name} cannot be added with session=: only a declared task can be stored. "
                    "Decorate it with @task_manager.task()."
                )
            sealed = self._seal(func, args, kwargs)
        payload, in_memory = self._encode(definition.codec, args, kwargs, persisted)
        if definition.config.executor is _PROCESS:
            # Arguments that cannot be sent to a process are refused now, in the caller, and not when the task runs.
            args, kwargs = (pack_call(definition.func, args, kwargs, payload),), {}
            # The packed call is a snapshot already.
            in_memory = in_memory or self._cipher is None
        if options is NO_OPTIONS and source is _MANUAL and definition.codec is not None:
            record = self._plain_record(definition, persisted, payload)
        else:
            record = self._record(definition, options, persisted=persisted, payload=payload, source=source)
        if sealed is not None:
            in_memory = False
        task = LiveTask(
            record,
            definition,
            args if in_memory else None,
            kwargs if in_memory else None,
            contextvars.copy_context(),
            durable=persisted or record.idempotency_key is not None,
        )
        task.sealed = sealed
        if record.run_at is not None and options.delay is not None:
            # A delay is a duration: setting the wall clock changes only `run_at`, which the next process uses.
            task.ready_at = self._clock.monotonic() + seconds("delay", options.delay)
        return task

    def revise(self, definition: TaskDefinition, payload: str, changes: Mapping[str, Any]) -> str:
        """Stored arguments with other values for some parameters; raises `TaskArgumentError`."""
        if definition.codec is None:
            raise TaskArgumentError(f"{definition.name} is not declared, so its arguments cannot be changed")
        if self._cipher is None:
            return definition.codec.revise(payload, changes)
        return self._cipher.encrypt(definition.codec.revise(self._cipher.decrypt(payload), changes))

    def rebuild(
        self, original: TaskRecord, definition: TaskDefinition, *, keep_key: bool, payload: str | None = None
    ) -> LiveTask:
        """Build the task that retries a finished one, from its stored arguments, or from others (`payload`).

        It is committed before it runs, even if its type is not persisted: the backend accepts only one retry of a task.
        If encryption is on, its arguments are encrypted again, with the first key. Raises `TaskArgumentError` when
        those of the original cannot be decrypted.
        """
        options = EnqueueOptions(
            idempotency_key=original.idempotency_key if keep_key else None,
            tags=original.tags,
            priority=original.priority,
            queue=original.queue,
        )
        persisted = self._persists(definition)
        stored = payload or original.payload
        renewed = None if stored is None else self._renewed(stored)
        record = self._record(definition, options, persisted=persisted, payload=renewed, source=Source.RETRY)
        record.retry_of = original.task_id
        record.trace.cause = original.trace.attempt or original.trace.creation
        task = LiveTask(record, definition, None, None, contextvars.copy_context(), durable=True)
        task.link = RetryLink(original.retried_by)
        return task

    def build_stored(
        self, definition: TaskDefinition, payload: str, options: EnqueueOptions, *, source: Source
    ) -> LiveTask:
        """Build a task from stored arguments; on a durable backend it is stored like a persisted one."""
        renewed = self._renewed(payload)
        record = self._record(definition, options, persisted=self._durable, payload=renewed, source=source)
        return LiveTask(record, definition, None, None, None, durable=True)

    def encode(self, definition: TaskDefinition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The payload for arguments that will be stored, as ciphertext if encryption is on.

        Raises `TaskArgumentError`, and `PersistenceError` for an undecorated function.
        """
        if definition.codec is None:
            raise PersistenceError(
                f"{definition.name} cannot be scheduled: only a declared task can be found again at its time. "
                "Decorate it with @task_manager.task()."
            )
        payload = definition.codec.encode(args, kwargs)
        return payload if self._cipher is None else self._cipher.encrypt(payload)

    def decode(self, task: LiveTask) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a task, from its payload."""
        payload, codec = task.record.payload, task.definition.codec
        if task.sealed is not None:
            codec, payload = task.sealed
        if payload is None or codec is None:
            return (), {}
        return self.decode_payload(codec, payload)

    def decode_payload(self, codec: Codec, payload: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments in a stored payload, which may be ciphertext."""
        return codec.decode(payload if self._cipher is None else self._cipher.decrypt(payload))

    def readable(self, payload: str) -> bool:
        """Whether this process has the key that stored arguments name; `True` if they name none."""
        seal = seal_of(payload)
        return seal is None or seal in self.seals

    def _renewed(self, payload: str) -> str:
        """The stored arguments for a new task: encrypted with the first key, if there is one."""
        if self._cipher is not None:
            return self._cipher.encrypt(self._cipher.decrypt(payload))
        if is_encrypted(payload):
            raise TaskArgumentError(
                "the stored arguments are encrypted, and this process has no key: TaskManager(encrypt_args_key=...)"
            )
        return payload

    def _seal(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sealed | None:
        """The arguments of an undecorated function as ciphertext, where encryption is on."""
        if self._cipher is None or not (args or kwargs):
            return None
        codec = Codec(func, name=function_name(func))
        try:
            payload = codec.encode(args, kwargs)
        except TaskArgumentError as exc:
            raise TaskArgumentError(f"{exc} (with encrypt_args_key, arguments wait as ciphertext only)") from exc
        return Sealed(codec, self._cipher.encrypt(payload))

    def _persists(self, definition: TaskDefinition) -> bool:
        return self._durable and definition.codec is not None and (definition.config.persist or self._persist_all)

    def _encode(
        self, codec: Codec | None, args: tuple[Any, ...], kwargs: dict[str, Any], persisted: bool
    ) -> tuple[str | None, bool]:
        """Return the payload, and whether the argument objects also stay in memory."""
        if codec is None:
            return None, True
        codec.check(args, kwargs)
        try:
            payload = codec.encode_checked(args, kwargs)
        except TaskArgumentError:
            # A task that is not persisted accepts any arguments, as FastAPI does; a manual retry explains the refusal.
            if persisted or self._cipher is not None:
                raise
            return None, True
        if self._cipher is not None:
            return self._cipher.encrypt(payload), False
        # A persisted task always runs from its stored arguments, as it would after a restart. No attempt sees later
        # changes to the caller's objects, or changes that an earlier attempt made.
        return payload, not persisted

    def _record(
        self,
        definition: TaskDefinition,
        options: EnqueueOptions,
        *,
        persisted: bool,
        payload: str | None,
        source: Source,
    ) -> TaskRecord:
        config = definition.config
        priority = options.priority if options.priority is not None else config.priority
        if options.eager is not None:
            flag("eager", options.eager)
        now = self._clock.now()
        run_at = self._run_at(options, now)
        queue = self._queues.get(_first_of(options.queue, config.queue, DEFAULT_QUEUE))
        return TaskRecord(
            task_id=new_task_id(),
            func_name=config.name,
            status=TaskStatus.PENDING,
            created_at=now,
            run_at=run_at,
            reason=first_reason(run_at, now),
            tags=_tags(options.tags, source),
            idempotency_key=checked_key(options.idempotency_key),
            source=source.value,
            priority=DEFAULT_PRIORITY if priority is None else checked_priority(priority),
            executor=config.executor.value,
            queue=queue.name,
            instance=self._membership.instance.instance_id,
            payload=payload,
            persisted=persisted,
        )

    def _plain_record(self, definition: TaskDefinition, persisted: bool, payload: str | None) -> TaskRecord:
        """The record of a task without options: a copy of the first record of its type, with the differences."""
        template = self._templates.get(definition)
        if template is None:
            template = self._record(definition, NO_OPTIONS, persisted=persisted, payload=None, source=_MANUAL)
            self._templates[definition] = template
        return replace(
            template,
            task_id=new_task_id(),
            created_at=self._clock.now(),
            tags={},
            timeline=(),
            trace=TaskTrace(),
            instance=self._membership.instance.instance_id,
            payload=payload,
            persisted=persisted,
        )

    @staticmethod
    def _run_at(options: EnqueueOptions, now: datetime) -> datetime | None:
        if options.delay is not None and options.run_at is not None:
            raise ConfigurationError("give delay or run_at, not both")
        if options.delay is not None:
            wait = seconds("delay", options.delay)
            return now + timedelta(seconds=wait) if wait > 0 else None
        return None if options.run_at is None else checked_moment("run_at", options.run_at)


def _first_of(*names: str | None) -> str:
    return next(name for name in names if name is not None)


def _tags(tags: object, source: Source) -> dict[str, str]:
    # Those of a retry or a planned run were made plain before.
    return dict(kept_tags(tags)) if source is not _MANUAL and type(tags) is dict else checked_tags(tags)
