"""Task ids sort by their creation and are UUIDs of version 7."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import RFC_4122, UUID

import pytest

from taskflow_otel.model import ids


def test_an_id_is_a_canonical_uuid_of_version_7() -> None:
    text = ids.new_task_id()
    value = UUID(text)
    assert str(value) == text
    assert value.version == 7
    assert value.variant == RFC_4122


def test_an_id_carries_its_millisecond() -> None:
    before = time.time_ns() // 1_000_000
    ids.new_task_id()  # a value far ahead, left by another test, would not carry its own moment
    millisecond = UUID(ids.new_task_id()).int >> 80
    assert before <= millisecond <= time.time_ns() // 1_000_000 + 1


def test_ids_of_one_process_strictly_increase() -> None:
    made = [ids.new_task_id() for _ in range(20_000)]
    assert made == sorted(set(made))


def test_ids_keep_increasing_when_the_clock_moves_back(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([5_000_000_000, 4_000_000_000, 0, 5_000_000_000])
    monkeypatch.setattr(ids, "_last", 0)
    monkeypatch.setattr("taskflow_otel.model.ids.time.time_ns", lambda: next(moments))
    made = [ids.new_task_id() for _ in range(4)]
    assert made == sorted(set(made))
    assert all(UUID(text).version == 7 and UUID(text).variant == RFC_4122 for text in made)


def test_ids_made_by_many_threads_are_distinct() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [text for some in pool.map(lambda _: [ids.new_task_id() for _ in range(500)], range(8)) for text in some]
    assert len(set(made)) == len(made)


def test_a_child_process_draws_other_ids_than_its_parent() -> None:
    ids.new_task_id()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, ids.new_task_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        theirs = pipe.read()
    # The last eleven digits are random: the time and the counter before them may be equal.
    assert theirs[-11:] != ids.new_task_id()[-11:]
