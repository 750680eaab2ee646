"""How many entries strangers can make: a few of each kind, then numbers."""

from __future__ import annotations

from taskflow_otel.engine.admin.repeats import Repeats
from taskflow_otel.testing.backends.admin import make_entry
from taskflow_otel.testing.clock import FakeClock


async def test_each_kind_has_its_own_number() -> None:
    clock = FakeClock()
    repeats = Repeats(clock)
    kept = [repeats.passes(make_entry(client=client)) for _ in range(12) for client in ("a", "b")]
    assert kept == [True] * 20 + [False] * 4
    assert repeats.summed_up() == []
    await clock.advance(60)
    assert {(entry.client, entry.times) for entry in repeats.summed_up()} == {("a", 2), ("b", 2)}
    assert repeats.passes(make_entry(client="a")), "a new window"


def test_many_addresses_share_one_number() -> None:
    repeats = Repeats(FakeClock())
    kept = sum(repeats.passes(make_entry(client=str(number))) for number in range(5_000))
    assert kept == 510
    [others] = repeats.summed_up(at_once=True)
    assert (others.client, others.times) == (None, 5_000 - 510)
