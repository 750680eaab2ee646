"""What the ledger said of all counts at one moment, for the workers of a host that cannot ask it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from taskflow_otel.metrics.books import COUNTS, Books


@dataclass(frozen=True, slots=True)
class Reading:
    """The stored counts and the living instances."""

    at: float
    """The monotonic time of this host before it was read."""
    counts: Mapping[str, str]
    """The text under each key."""
    hosts: Mapping[str, str]
    """The ids of the living instances, and their hosts."""

    def dump(self) -> str:
        """As JSON."""
        return json.dumps({"at": self.at, "counts": dict(self.counts), "hosts": dict(self.hosts)})

    @classmethod
    def load(cls, text: str) -> Reading:
        """Read the output of `dump`; raises `ValueError` for anything else."""
        try:
            data = json.loads(text)
            return cls(float(data["at"]), dict(data["counts"]), dict(data["hosts"]))
        except (KeyError, TypeError) as exc:
            raise ValueError(f"not a reading of the ledger: {exc!r}") from exc

    def with_newer(self, books: Books, own: Mapping[str, str]) -> Reading:
        """The same with what files have that is newer; `own`: the texts of this process, by their keys."""
        newer = {key: text for key, (text, _) in books.aside.items()}
        return replace(self, counts={**self.counts, **newer, **own})

    def by_process(self) -> dict[str, str]:
        """The text of each process, by its name."""
        return {key.removeprefix(COUNTS): text for key, text in self.counts.items()}
