"""A persisted task walks through the library as `docs/architecture.md` says, and its way goes forward."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.e2e.walk import LAST, ROOMS, STEPS, Call, as_text, on_page, walk

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def walked() -> list[list[Call]]:
    return []


async def traced(walked: list[list[Call]]) -> list[Call]:
    """The walk, traced once for all tests."""
    if not walked:
        walked.append(await walk())
    return walked[0]


async def test_the_documentation_lists_the_walk_of_a_task_as_it_is(walked: list[list[Call]]) -> None:
    # Write it anew: python -m tests.e2e.walk
    assert as_text(await traced(walked)) == on_page()


async def test_each_step_of_the_walk_enters_each_module_once(walked: list[list[Call]]) -> None:
    entered = Counter((call.step, call.unit) for call in await traced(walked))
    assert {entry: times for entry, times in entered.items() if times > 1} == {}


async def test_each_step_of_the_walk_enters_each_room_once_and_in_order(walked: list[list[Call]]) -> None:
    calls = await traced(walked)
    assert list(dict.fromkeys(call.step for call in calls)) == [*STEPS.values(), LAST]
    for step in dict.fromkeys(call.step for call in calls):
        # Each exporter is told once, by one loop of the bus.
        entered = [call.enters for call in calls if call.step == step and call.enters not in {None, "exporters"}]
        told = [call for call in calls if call.step == step and call.enters == "exporters"]
        assert entered == [room for room in ROOMS if room in entered], step
        assert {call.caller for call in told} <= {"bus"}, step
