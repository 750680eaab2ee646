"""The benchmark of the views asks each of them, and says of each whether it was answered."""

from __future__ import annotations

from pathlib import Path

from benchmarks import views


async def test_each_view_of_a_history_is_asked_and_answered(tmp_path: Path) -> None:
    where = str(tmp_path / "tasks.db")
    await views.fill(where, 300)
    found = await views.measure(where, 1)
    assert (found.pop("tasks"), found.pop("failed"), found.pop("groups")) == (300, 15, 15)
    assert found.pop("machine_load") >= 0
    assert {*found} == {*views.views("")}
    for label, one in found.items():
        assert one["refused"] == 0, label
        assert one["cold"]["p99"] >= one["cold"]["p50"] > 0, label
