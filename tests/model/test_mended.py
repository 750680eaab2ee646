"""A damaged row as a record that shows what can be read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from taskflow_otel.backends.redis import codec
from taskflow_otel.backends.redis.fields import failed_fields
from taskflow_otel.backends.sql import mapping
from taskflow_otel.model.plain import encodable
from taskflow_otel.testing.backends.samples import BASE, full_task
from tests.faults.rows import json_texts, shown
from tests.faults.values import Said, anything, boxed

ROW = [field.name for field in mapping.STORED]


SOUND = dict(zip(ROW, mapping.row_maker(mapping.STORED)(full_task()), strict=False))


@given(st.dictionaries(st.sampled_from(ROW), boxed(st.one_of(anything(), json_texts)), min_size=1, max_size=3))
def test_any_row_of_a_table_becomes_a_record_that_can_be_shown(junk: dict[str, Said]) -> None:
    row = {**SOUND, **{name: said.value for name, said in junk.items()}}
    # No driver returns them: a database has no text with lone surrogates, and SQLite's is read with escapes.
    row = {name: encodable(value) if type(value) is str else value for name, value in row.items()}
    shown(mapping.to_record(row.values()), [])


def test_lone_surrogates_reach_a_codec_and_come_back_as_escapes() -> None:
    task = full_task()
    task.reason, task.error, task.tags = "\ud800", "a\udcff ☕ 🎉", {"\udc80": "\ud800"}
    task.timeline = (replace(task.timeline[0], reason="\ud800"), *task.timeline[1:])
    sql = mapping.to_record(mapping.row_maker(mapping.STORED)(task)[: len(ROW)])
    head, doc = codec.dump_head(task), codec.dump_doc(task)
    redis = codec.load_record(
        (task.instance, str(task.token), task.status.value, None, None, head, doc, None, task.task_id)
    )
    for read in (sql, redis):
        assert read.tags == {"\\udc80": "\\ud800"}
        assert read.timeline[0].reason == "\\ud800"
        shown(read, [])
    assert redis.error == "a\\udcff ☕ 🎉"


def test_a_sound_row_is_read_as_it_is_and_has_no_damage() -> None:
    task = full_task()
    row = mapping.row_maker(mapping.STORED)(task)[: len(ROW)]
    assert mapping.to_record(row) == task
    assert mapping.to_record(row).damage is None
    loaded = codec.load_record(
        (task.instance, str(task.token), task.status.value, None, task.retried_by, codec.dump_head(task),
         codec.dump_doc(task), str(failed_fields(task)[1]), task.task_id)
    )  # fmt: skip
    assert loaded.damage is None
    assert loaded == replace(task, damage=None)
    assert task.created_at > BASE
