"""The spans of attempts in the ledger: their stored form, which is ciphertext where arguments are."""

from __future__ import annotations

from taskflow_otel.backends.base import AppendSpans, Backend
from taskflow_otel.backends.spans import KeepsSpans, SpanStore
from taskflow_otel.engine.ledger.ledger import Ledger
from taskflow_otel.errors import TaskArgumentError
from taskflow_otel.model.cipher import PayloadCipher, is_encrypted
from taskflow_otel.model.record import TaskRecord
from taskflow_otel.model.spans import AttemptSpans, KeptTrace, load_spans


class SpanBook:
    """Writes the spans of attempts with their outcomes, and reads them. Without a store for them it does nothing."""

    def __init__(self, backend: Backend, ledger: Ledger, cipher: PayloadCipher | None) -> None:
        self._store: SpanStore | None = backend.span_store if isinstance(backend, KeepsSpans) else None
        self._ledger = ledger
        self._cipher = cipher

    def keep(self, record: TaskRecord, text: str) -> None:
        """Store the spans of the attempt that ends now, in the transaction of its outcome."""
        if self._store is None:
            return
        if self._cipher is not None:
            text = self._cipher.encrypt(text)
        self._ledger.append_spans(AppendSpans(record.task_id, record.instance, record.token, record.attempt, text))

    async def read(self, task_id: str) -> KeptTrace:
        """What is stored of a task; raises `BackendError`."""
        stored = {} if self._store is None else await self._store.read(task_id)
        found: dict[int, AttemptSpans] = {}
        for attempt, text in stored.items():
            try:
                found[attempt] = load_spans(self._plain(text))
            except (TaskArgumentError, ValueError):
                continue
        return KeptTrace(found, len(stored) - len(found))

    def _plain(self, text: str) -> str:
        if self._cipher is not None:
            return self._cipher.decrypt(text)
        if is_encrypted(text):
            raise ValueError("this process has no key")
        return text
