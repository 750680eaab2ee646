"""What happens to a batch that the backend refused because its instance was declared dead.

The ledger has everything that it will ever have under the id of a dead instance (`Backend.apply`). So what it holds now
says for each of these changes whether an earlier try was applied, whose answer was lost.
"""

from __future__ import annotations

from collections.abc import Sequence

from taskflow_otel.backends.base import APPENDED, Backend, Insert
from taskflow_otel.engine.ledger.batch import Commit, Item, Note


async def sort_out(items: Sequence[Item], dead: str, heir: str, backend: Backend) -> tuple[list[Item], list[Item]]:
    """Return the items whose tasks are out of reach now, and those that can be written.

    The tasks of the instance `dead` belong to others, or will. Tasks that it has not stored are given to `heir`, the
    new id of this process; those whose callers have given up are dropped. Raises `BackendError`.
    """
    new = [item.task_id for item in items if _inserts_under(item, dead)]
    stored = await backend.get_all(new) if new else {}
    lost: list[Item] = []
    left: list[Item] = []
    for item in items:
        change = item.change
        if isinstance(change, APPENDED) or change.record.instance != dead:
            left.append(item)
        elif not isinstance(change, Insert) or item.task_id in stored:
            lost.append(item)
        elif not (isinstance(item, Commit) and item.future.done()):
            # A note holds a copy of the record.
            record = item.task.record if isinstance(item, Note) else change.record
            if record.status.finished:
                # The lines of its timeline are published.
                record.instance = heir
            else:
                record.assign(heir)
            if isinstance(item, Commit):
                # No earlier try was applied: its caller may give it up.
                item.tried = False
            left.append(item)
    return lost, left


def _inserts_under(item: Item, dead: str) -> bool:
    change = item.change
    return isinstance(change, Insert) and change.record.instance == dead
