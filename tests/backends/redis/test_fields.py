"""What the scripts of Redis read of a task."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec.structs import replace

from taskflow_otel.backends.pool import Pooled
from taskflow_otel.backends.redis.fields import (
    dimensions,
    groups_of,
    pooled_fields,
    read_group,
    tag_dimension,
    update_fields,
)
from taskflow_otel.testing.backends.samples import full_task

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def test_tags_that_read_alike_have_different_indexes() -> None:
    one, other = replace(full_task(), tags={"a": "b=c"}), replace(full_task(), tags={"a=b": "c"})
    assert tag_dimension("a", "b=c") in dimensions(one)
    assert tag_dimension("a", "b=c") not in dimensions(other)


def test_the_group_of_a_task_in_the_pool_is_among_those_that_a_claim_asks_for() -> None:
    for seal in (None, "s"):
        pooled = Pooled("id", "default", 5, "mail", seal, NOW, NOW)
        group = pooled_fields(pooled)[3]
        assert group[1:] in groups_of(["mail"], ["s"])
        assert read_group(group) == (True, "mail", seal or "")


def test_the_group_of_a_change_says_whether_the_task_is_persisted() -> None:
    for persisted in (True, False):
        group = update_fields(replace(full_task(), persisted=persisted, func_name="mail"))[10]
        assert isinstance(group, str)
        assert read_group(group)[:2] == (persisted, "mail")
