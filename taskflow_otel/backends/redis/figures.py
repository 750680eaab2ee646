"""The figures of finished tasks in Redis; the script `apply` adds to them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from taskflow_otel.backends.redis.texts import to_json
from taskflow_otel.model.figures import Figure, Span
from taskflow_otel.runtime.owned_tasks import in_slices

if TYPE_CHECKING:
    from taskflow_otel.backends.redis.connection import Connection

_SLOTS_AT_ONCE = 20
_AT_ONCE = 2_000


class RedisFigureStore:
    """See `FigureStore`."""

    def __init__(self, connection: Callable[[], Connection]) -> None:
        self._connection = connection

    async def read(
        self,
        span: Span,
        first: int,
        last: int,
        *,
        by_name: bool = False,
        kinds: Collection[str] | None = None,
        names: Collection[str] | None = None,
    ) -> list[Figure]:
        """See `FigureStore`."""
        added: dict[tuple[int, str, str, int], list[int]] = {}
        start = str(first)
        wanted = "" if names is None else to_json(sorted(names))
        while start:
            start, rows = await self._connection().read(
                "figures_read", span.value, start, str(last), str(_SLOTS_AT_ONCE), wanted
            )
            async for slot, field, tasks, micros in in_slices(rows, _AT_ONCE):
                kind, bucket, name = field.split(":", 2)
                if kinds is not None and kind not in kinds:
                    continue
                sums = added.setdefault((int(slot), name if by_name else "", kind, int(bucket)), [0, 0])
                sums[0] += int(tasks)
                sums[1] += int(micros)
        return [Figure(*key, *added[key]) for key in sorted(added)]

    async def oldest(self, span: Span) -> int | None:
        """See `FigureStore`."""
        slot = await self._connection().read("figures_oldest", span.value)
        return int(slot) if slot else None

    async def forget(self, span: Span, before: int, limit: int) -> int:
        """See `FigureStore`."""
        return int(await self._connection().write("figures_forget", span.value, str(before), str(limit)))
