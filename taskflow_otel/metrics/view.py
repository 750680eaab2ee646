"""Which counts the pages of a target show: those of its workers, of its dead, and of processes behind no target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from taskflow_otel.exporters.prometheus.exporter import PrometheusExporter
from taskflow_otel.exporters.prometheus.values import Elsewhere, Snapshot, lasting
from taskflow_otel.metrics.elsewhere import Scene, elsewhere_of
from taskflow_otel.metrics.stored import Stored


@dataclass(frozen=True, slots=True)
class View:
    """The counts of one moment, without those of this process: parts of several moments could show counts twice."""

    members: Mapping[str, tuple[Stored, bool]] = field(default_factory=dict)
    """The other workers of the target, by their keys, and whether each lives."""
    gone: Snapshot = field(default_factory=dict)
    """The counts of the dead of the target who are no members any more."""
    elsewhere: Elsewhere | None = None
    alone: bool = True
    """No other worker of the target lives."""
    neighbours: bool = False
    """All of them are on this host."""

    @classmethod
    def of(cls, scene: Scene, host: str) -> View:
        """What a worker of the target `scene.mine`, on this host, shows."""
        members = {key: one for key, one in scene.known.items() if scene.mine and one.target == scene.mine}
        living = {key for key, one in members.items() if scene.lives(one)}
        return cls(
            {key: (one, key in living) for key, one in members.items()},
            scene.sums.get(scene.mine, {}),
            elsewhere_of(scene) if scene.table.carrier == scene.mine else None,
            not living,
            {scene.alive[members[key].instance] for key in living} <= {host} != {""},
        )

    def show(self, exporter: PrometheusExporter, own: Snapshot | None) -> None:
        """Have the page show these counts with those of this process; by default its current ones."""
        peers = [one.counts if lives else lasting(one.counts) for one, lives in self.members.values()]
        exporter.set_peers(
            [*peers, self.gone],
            own,
            elsewhere=self.elsewhere,
            # The others have shown theirs at that time; Prometheus refuses exemplars that are older.
            exemplars_after=max((one.asked_at.timestamp() for one, _ in self.members.values()), default=0.0),
        )
