"""The counts that no scraped target shows, and which are shown by the carrier.

They have a label of their own, `elsewhere`. Its value changes whenever counts join or leave these series in another way
than by being counted: to Prometheus, these are new series then, whose first value is no increase. So sums over all
targets are those of the ledger, and no rate has a peak when a target vanishes or comes back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from taskflow_otel.exporters.prometheus.values import Elsewhere, Snapshot, lasting
from taskflow_otel.metrics.stored import Stored
from taskflow_otel.metrics.targets import Targets

NOWHERE = "-"
"""The name of the sum of those that were behind no target, or behind one that vanished long ago."""
SCRAPED_WITHIN = timedelta(minutes=5)
"""A target whose page nobody asked for in this time is not scraped."""


@dataclass(frozen=True, slots=True)
class Scene:
    """All stored counts at one moment."""

    table: Targets
    mine: str
    """The target of this process."""
    own: Stored | None
    known: Mapping[str, Stored]
    """What the other processes have stored, by their keys."""
    sums: Mapping[str, Snapshot]
    """The sums of the dead, by the name of their target."""
    alive: Mapping[str, str]
    """The ids of living instances, and their hosts."""
    now: datetime

    def lives(self, one: Stored) -> bool:
        """Whether a process is there."""
        return one.instance in self.alive and not one.final

    def lately(self, one: Stored) -> bool:
        """Whether its page was asked for a short time ago, or it is new."""
        return one.asked_at > self.now - SCRAPED_WITHIN

    def scraped(self) -> set[str]:
        """The names of the targets that show their own counts."""
        names = {one.target for one in self.known.values() if one.target and self.lives(one) and self.lately(one)}
        if self.own is not None and self.own.target and self.lately(self.own):
            names.add(self.own.target)
        return names


def elsewhere_of(scene: Scene) -> Elsewhere | None:
    """What the carrier shows besides its own counts."""
    shown = scene.scraped() | {scene.mine}
    parts = [counts for name, counts in scene.sums.items() if name not in shown]
    members = {name for name in scene.sums if name not in shown}
    for key, one in scene.known.items():
        lives = scene.lives(one)
        if one.target in shown or (lives and not one.target and scene.lately(one)):
            # A new process finds its target in a moment.
            continue
        parts.append(one.counts if lives else lasting(one.counts))
        members.add(one.target or key)
    if not any(parts):
        return None
    composition = "|".join((str(scene.table.merged), *sorted(members)))
    return Elsewhere(hashlib.sha256(composition.encode()).hexdigest()[:8], tuple(parts))
