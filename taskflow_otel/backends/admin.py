"""What a backend may store beside tasks: what people did through the administration.

These contracts are optional. A backend that has them exposes the store as an attribute. For a backend without it, the
engine uses the store in memory: it is bounded, and each process has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

from taskflow_otel.model.audit import AuditEntry, AuditPage, AuditQuery


class AuditStore(Protocol):
    """Stores the audit. The errors are those of a `Backend`."""

    async def add(self, entries: Sequence[AuditEntry]) -> None:
        """Store entries in one transaction; an entry whose id is stored already stays unchanged."""

    async def page(self, query: AuditQuery) -> AuditPage:
        """One page, newest first: by time, then by id."""

    async def forget(self, before: datetime, limit: int) -> int:
        """Delete up to `limit` entries that are older than this moment, the oldest first; return how many."""


@runtime_checkable
class KeepsAudit(Protocol):
    """A backend that stores the audit."""

    @property
    def audit_store(self) -> AuditStore:
        """The store; it works while the backend is open."""
