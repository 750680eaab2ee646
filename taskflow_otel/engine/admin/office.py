"""What serves the administration: its audit, and work on many tasks, on the stores that the backend has for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from taskflow_otel.backends.admin import KeepsAudit, KeepsOperations
from taskflow_otel.backends.base import Backend
from taskflow_otel.backends.memory_admin import MemoryAuditStore, MemoryOperationStore
from taskflow_otel.bus import ObserverBus
from taskflow_otel.engine.admin.audit_trail import AuditTrail
from taskflow_otel.engine.admin.operations import Operations
from taskflow_otel.engine.admin.retention import AdminCleaner
from taskflow_otel.engine.admin.work import CancelWork, DeleteWork, RetryWork
from taskflow_otel.engine.control import Control
from taskflow_otel.engine.life import Life
from taskflow_otel.engine.lookup import Lookup
from taskflow_otel.engine.membership import Membership
from taskflow_otel.engine.retries import Retries
from taskflow_otel.model.vocabulary import OperationKind
from taskflow_otel.runtime.clock import Clock
from taskflow_otel.runtime.service import Service

_CLEAN_INTERVAL = 60.0


class Office:
    """The services of the administration. `kept`: how long audit and operations are kept; `None` is for ever."""

    def __init__(
        self,
        backend: Backend,
        bus: ObserverBus,
        clock: Clock,
        interval: float,
        membership: Membership,
        life: Life,
        lookup: Lookup,
        retries: Retries,
        control: Control,
        delete_tasks: Callable[[Sequence[str]], Awaitable[list[str]]],
        kept: timedelta | None,
    ) -> None:
        audits = backend.audit_store if isinstance(backend, KeepsAudit) else MemoryAuditStore()
        operations = backend.operation_store if isinstance(backend, KeepsOperations) else MemoryOperationStore()
        instance_id: Callable[[], str] = lambda: membership.instance.instance_id  # noqa: E731  # it changes
        self.audit: AuditTrail = AuditTrail(audits, operations, bus, clock, interval, life, instance_id)
        self.operations: Operations = Operations(
            operations,
            {
                OperationKind.RETRY.value: RetryWork(retries, backend),
                OperationKind.CANCEL.value: CancelWork(control, lookup),
                OperationKind.DELETE.value: DeleteWork(delete_tasks, lookup),
            },
            lookup,
            clock,
            interval,
            membership,
            backend.instances,
            life,
        )
        self.services: list[Service] = [self.audit, self.operations]
        if kept is not None:
            self.services.append(AdminCleaner([audits, operations], clock, _CLEAN_INTERVAL, kept))
