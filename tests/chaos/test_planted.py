"""The storm finds what it is there to find: a server in which one promise is broken does not pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.crash_points import BEFORE_COMMIT, IN_COMMIT, STOPPED_WITH_KEY
from tests.chaos.plan import KILL, LEAVE, PAUSE, REST, Plan
from tests.chaos.planted import FAULTS
from tests.chaos.storm import run_storm
from tests.chaos.test_chaos_slice import BINARIES
from tests.servers import find_binary

PLANS = {
    "acknowledge before the commit": Plan("sqlite", kills=12, seconds=20, faults=(BEFORE_COMMIT, IN_COMMIT, KILL)),
    # Pauses long enough to be taken over, on a database where a paused process delays no other.
    "no fencing": Plan(
        "postgres",
        kills=100,
        seconds=30,
        members=3,
        faults=(PAUSE, REST),
        pauses=(2.0, 3.0),
        kinds=("again", "slow"),
        shaken=False,
    ),
    # Nobody dies before the end: what was refused is in doubt for as long as its process may have died of it.
    "refused commit left in the ledger": Plan("redis", kills=100, seconds=35, faults=()),
    "delay lost at takeover": Plan("sqlite", kills=10, seconds=20, faults=(KILL,), kinds=("delayed",)),
    "failed request's task run": Plan("sqlite", kills=100, seconds=5, faults=()),
    "drain that forgets": Plan("sqlite", kills=100, seconds=10, faults=(LEAVE,), kinds=("slow",)),
    "drain that interrupts what should be requeued": Plan(
        "sqlite", kills=100, seconds=10, faults=(LEAVE,), kinds=("again",), clients=16
    ),
    # The messages that a killed worker has fetched are lost with it.
    "lost messages are not sent again": Plan(
        "sqlite",
        kills=6,
        seconds=20,
        workers=1,
        broker="redis",
        faults=(KILL,),
        kinds=("plain",),
        shaken=False,
        last_work=8,
    ),
    # Several instances write the same keys at once: the one that is stopped holds keys that the others wait for.
    "no time limits": Plan(
        "postgres",
        kills=100,
        seconds=60,
        members=3,
        clients=16,
        faults=(STOPPED_WITH_KEY,),
        kinds=("once",),
        shaken=False,
        until_unexpected=True,
    ),
}
"""A short storm that is likely to meet each fault."""
LONG = {"no fencing", "refused commit left in the ledger", "lost messages are not sent again"}
"""The longest storms, half a minute each: `make chaos-planted` runs them, `make test` does not."""
SEEDS = (5, 6, 7, 8, 9)


def test_every_fault_has_a_storm() -> None:
    assert PLANS.keys() == FAULTS.keys()


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in FAULTS])
def test_a_planted_fault_is_found(name: str) -> None:
    plan = PLANS[name]
    if plan.backend in BINARIES:
        find_binary(*BINARIES[plan.backend])
    reports = []
    for seed in SEEDS:
        # A storm draws what happens: a short one may miss the moment that shows the fault.
        reports.append(run_storm(replace(plan, seed=seed, planted=name)))
        if {violation.rule for violation in reports[-1].violations} & FAULTS[name].rules:
            return
    pytest.fail("\n".join(map(str, reports)))
