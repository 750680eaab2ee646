"""What all processes have stored of their counts, as it was read last."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial

from taskflow_otel.exporters.prometheus.values import Snapshot
from taskflow_otel.metrics.stored import Stored, beside, load_counts
from taskflow_otel.metrics.targets import FIRST, Targets
from taskflow_otel.runtime.readable import Readable

logger: logging.Logger = logging.getLogger("taskflow_otel.metrics")

COUNTS = "metrics:"
"""Prefix of the keys for stored counts: one for each process that is not folded yet, `GONE` and `TARGETS`."""
GONE = f"{COUNTS}gone"
"""The sum of the dead of the first target; those of the others have its name behind a colon."""
TARGETS = f"{COUNTS}targets"


def gone_key(name: str) -> str:
    """The key for the sum of the dead of a target."""
    return GONE if name == FIRST else f"{GONE}:{name}"


class Books:
    """The table of targets, the sums of the dead and the counts of the other processes."""

    def __init__(self, readable: Readable) -> None:
        self._readable = readable
        self.table: tuple[str | None, Targets] = None, Targets()
        """The text of the table, for the next swap, and what it says."""
        self.sums: dict[str, tuple[str, Snapshot]] = {}
        """By the name of the target: the text, and the counts."""
        self.known: dict[str, tuple[str, Stored]] = {}
        """By key: the text, and what it says."""
        self.aside: dict[str, tuple[str, Stored]] = {}
        """By key: newer counts, from a file."""

    def copy(self) -> Books:
        """Books that can be read into without a change of these; what they have in common is not read again."""
        twin = Books(self._readable)
        twin.table, twin.sums, twin.known = self.table, self.sums, self.known
        return twin

    async def read(self, stored: dict[str, str], own: str) -> None:
        """Read everything under `COUNTS` except the key `own`; a text that has not changed is not read again."""
        stored.pop(own, None)
        text = stored.pop(TARGETS, None)
        if text is None or text != self.table[0]:
            self.table = text, self._readable.read(TARGETS, Targets.load, text) or Targets()
        sums: dict[str, tuple[str, Snapshot]] = {}
        known: dict[str, tuple[str, Stored]] = {}
        for key, text in stored.items():
            if key == GONE or key.startswith(f"{GONE}:"):
                name = FIRST if key == GONE else key.removeprefix(f"{GONE}:")
                before = self.sums.get(name)
                if before is None or before[0] != text:
                    summed = await beside(len(text), partial(self._readable.read, key, load_counts, text))
                    before = text, summed or {}
                sums[name] = before
            elif (other := await self._stored(key, text)) is not None:
                known[key] = text, other
        self.sums, self.known = sums, known

    async def _stored(self, key: str, text: str) -> Stored | None:
        known = self.known.get(key)
        if known is not None and known[0] == text:
            return known[1]
        return await beside(len(text), partial(self._readable.read, key, Stored.load, text))

    async def compare(self, *files: Mapping[str, str]) -> None:
        """Take the counts from files, by the name of their process, where they are newer than those of the ledger."""
        self.aside = {}
        for source, text in {(source, text) for found in files for source, text in found.items()}:
            key = f"{COUNTS}{source}"
            if key not in self.known or text in (self.known[key][0], self.aside.get(key, ("",))[0]):
                continue
            newer = await beside(len(text), partial(self._readable.read, source, Stored.load, text))
            if newer is not None and newer.number > self.latest(key).number:
                self.aside[key] = text, newer

    def latest(self, key: str) -> Stored:
        """The latest counts of a known process."""
        return self.aside.get(key, self.known[key])[1]
