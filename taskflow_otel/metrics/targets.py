"""Which processes are one target of Prometheus, and which target shows the counts that no other one shows.

A target is what Prometheus scrapes: one address, behind which one or several workers answer. Each has a name in the
ledger, under which the counts of its dead workers are kept. The carrier is the target that also shows the counts of
processes that are behind no scraped target: those of vanished ones, and of programs that serve no page.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from taskflow_otel.runtime.identity import host_identity, process_started
from taskflow_otel.runtime.listening import serving_address

FIRST = "1"
"""The name of the first target."""
KEPT = 20
"""How many vanished targets keep their own sum, so that they continue it if they come back."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The names of the targets by their address, the name of the carrier, and two counters."""

    names: dict[str, str] = field(default_factory=dict)
    carrier: str = FIRST
    made: int = 0
    """How many names were given."""
    merged: int = 0
    """How often counts were added to the sum of vanished targets."""

    @classmethod
    def load(cls, text: str | None) -> Targets:
        """Read the output of `dump`; raises `ValueError` for anything else."""
        if text is None:
            return cls()
        try:
            data = json.loads(text)
            return cls(dict(data["names"]), str(data["carrier"]), int(data["made"]), int(data["merged"]))
        except (KeyError, TypeError) as exc:
            raise ValueError(f"not a table of targets: {exc!r}") from exc

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(
            {"names": self.names, "carrier": self.carrier, "made": self.made, "merged": self.merged},
            separators=(",", ":"),
        )

    def claim(self, address: str, living: Collection[str]) -> Targets:
        """The table in which an address has a name. `living`: the names behind which a process lives.

        If none lives, a new address continues the counts of the carrier: to Prometheus, a service that moved is the
        same one, and its counters do not fall.
        """
        if address in self.names:
            return self
        if any(name in living for name in self.names.values()):
            name = str(self.made + 1)
            return replace(self, names={**self.names, address: name}, made=self.made + 1)
        others = {known: name for known, name in self.names.items() if name != self.carrier}
        return replace(self, names={**others, address: self.carrier}, made=max(self.made, 1))

    def too_many(self, living: Collection[str]) -> list[str]:
        """The names of the vanished targets beyond `KEPT`, the oldest first."""
        vanished = sorted(
            (name for name in self.names.values() if name not in living and name != self.carrier), key=int
        )
        return vanished[: max(0, len(vanished) - KEPT)]

    def without(self, name: str) -> Targets:
        """The table after a vanished target was merged into the sum of those."""
        names = {address: known for address, known in self.names.items() if known != name}
        return replace(self, names=names, merged=self.merged + 1)


VARIABLE = "TASKFLOW_METRICS_TARGET"
"""The environment variable that names the target of a process."""


def target_address(given: str | None) -> str:
    """The address of the target of this process; empty as long as it listens nowhere.

    `given`: the user's name for it, else `TASKFLOW_METRICS_TARGET`, else its host and listening socket.
    """
    named = given or os.environ.get(VARIABLE, "")
    if named:
        return named
    serving = serving_address()
    if serving is None:
        # The system does not tell: the processes of one host are one target.
        return _host()
    return f"{_host()}|{serving}" if serving else ""


def process_address() -> str:
    """The address of a process that listens nowhere: a test, or a server that hides its socket."""
    pid = os.getpid()
    return f"{_host()}|{pid}|{process_started(pid)}"


def _host() -> str:
    return host_identity() or socket.gethostname()
