"""What the scripts read of a task: the fields of its changes, and the indexes and groups that find it."""

from __future__ import annotations

from collections.abc import Collection

from taskflow_otel.backends.pool import Pooled
from taskflow_otel.backends.redis.codec import dump_failures
from taskflow_otel.backends.redis.texts import plain_json, to_micros
from taskflow_otel.model.cipher import seal_of
from taskflow_otel.model.figures import Span, figures_of
from taskflow_otel.model.plain import distinct_text, is_storable
from taskflow_otel.model.record import TaskRecord

Field = str | bool | None | list[str | int]
"""A field of a change for `apply.lua`."""


def tag_dimension(key: str, value: str | None) -> str:
    """Return the index of a tag; without a value, the index of all tags with this key."""
    return f"k{key}" if value is None else f"t{len(key)}:{key}={value}"


def dimensions(record: TaskRecord) -> list[str]:
    """Return the indexes of a task: one for each filter that can find it."""
    dims = ["", f"f{record.func_name}", f"q{record.queue}", f"s{record.source}"]
    if trace_id := record.trace_id:
        dims.append(f"r{trace_id}")
    if (fingerprint := record.fingerprint) is not None:
        dims.append(f"p{fingerprint}")
    for key, value in record.tags.items():
        dims += (tag_dimension(key, None), tag_dimension(key, value))
    return dims


def _search_text(record: TaskRecord) -> str:
    """The text that `q` searches besides the id."""
    return f"{record.func_name}\0{record.error or ''}".lower()


def _group(persisted: bool, func_name: str, seal: str | None) -> str:
    """The group of a live task. For sealed arguments, the name is followed by NUL and the seal."""
    return f"{persisted:d}{func_name}" + ("" if seal is None else f"\0{seal}")


def groups_of(names: Collection[str], seals: Collection[str]) -> list[str]:
    """Return the groups of these names, without their first character: unsealed, and with each of these seals."""
    return sorted([*names, *(f"{name}\0{seal}" for name in names for seal in seals)])


def read_group(group: str) -> tuple[bool, str, str]:
    """Return whether the tasks of a group are persisted, their name, and their seal (empty without one)."""
    name, _, seal = group[1:].partition("\0")
    return group[:1] == "1", name, seal


def _figures(record: TaskRecord) -> list[str | int]:
    """The figures of a finished task, in the order of `apply.lua`."""
    ended = record.end_time or record.created_at
    found: list[str | int] = [str(span.slot(ended)) for span in Span]
    for kind, bucket, micros in figures_of(record):
        found += (f"{kind}:{bucket}:{record.func_name}", micros)
    return found


def pooled_fields(task: Pooled) -> list[str]:
    """Return the fields of a task that goes into the pool, in the order of `pool_give.lua`."""
    created, since = to_micros(task.created_at), to_micros(task.since)
    group = _group(True, task.func_name, task.seal)
    return [task.task_id, task.queue, str(-task.priority), group, str(created), str(since)]


def failed_fields(record: TaskRecord) -> list[str | int]:
    """The fingerprint of a task that failed (empty if it is over it) and its failures, in the order of `apply.lua`."""
    return [record.fingerprint or "", dump_failures(record.failures)] if record.failures else []


def update_fields(record: TaskRecord) -> list[Field]:
    """Return the fields of an update, in the order of `apply.lua`."""
    duration = ended = ""
    figures: list[str | int] = []
    if record.status.finished:
        figures = _figures(record)
        duration = "" if record.duration is None else str(round(record.duration * 1_000_000))
        ended = str(to_micros(record.end_time or record.created_at))
    return [
        record.task_id,
        record.instance,
        str(record.token),
        record.status.value,
        plain_json(dimensions(record)),
        _storable_key(record.idempotency_key),
        record.active_key is not None,
        duration,
        ended,
        _search_text(record),
        _group(record.persisted, record.func_name, seal_of(record.payload)),
        str(to_micros(record.created_at)),
        figures,
        failed_fields(record),
    ]


def insert_fields(record: TaskRecord) -> list[Field]:
    """Return the fields of an insert, in the order of `apply.lua`."""
    return [
        *update_fields(record),
        "1" if record.cancel_requested else "",
        record.retried_by or "",
    ]


def _storable_key(key: str | None) -> str | None:
    return None if key is None else distinct_text(key)


def old_key(key: str | None) -> tuple[str, ...]:
    """The form in which version 0.1.0 stored a key, if it was another one."""
    return () if key is None or is_storable(key) else (key,)
