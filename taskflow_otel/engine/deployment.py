"""What this process runs, as its environment says: the same application as a web process, a worker, or both."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple, get_args

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.options import GREATEST, ProcessRunName, checked_queue_name
from taskflow_otel.model.vocabulary import InstanceKind

RUN, QUEUES, CONCURRENCY = "TASKFLOW_RUN", "TASKFLOW_QUEUES", "TASKFLOW_CONCURRENCY"
KIND = "TASKFLOW_KIND"
"""Set by the command `taskflow-otel worker`, for the application that it imports."""


class Deployment(NamedTuple):
    """What this process runs."""

    run: ProcessRunName = "here"
    """`here`: as each queue says. `pool`: all queues are shared, and this process claims tasks. `none`: all queues are
    shared, and this process claims none."""
    queues: frozenset[str] | None = None
    """The shared queues from which it claims; `None` is all of them."""
    concurrency: int | None = None
    """Claimed tasks that it runs at once, besides the limits of queues and executors."""
    kind: InstanceKind = InstanceKind.WEB

    def claims(self, queue: str) -> bool:
        """Whether this process claims tasks of a queue, if that is shared."""
        return self.run != "none" and (self.queues is None or queue in self.queues)


def deployment(environ: Mapping[str, str] = os.environ) -> Deployment:
    """Read `TASKFLOW_RUN` (`here`, `pool` or `none`), `TASKFLOW_QUEUES` (names with commas), `TASKFLOW_CONCURRENCY`.

    An empty variable counts as absent. Raises `ConfigurationError` for a wrong value.
    """
    said = environ.get(RUN) or "here"
    run: ProcessRunName | None = next((known for known in get_args(ProcessRunName) if known == said), None)
    if run is None:
        raise ConfigurationError(f"the environment variable {RUN} must be here, pool or none, not {said!r}")
    queues = environ.get(QUEUES)
    concurrency = environ.get(CONCURRENCY)
    if concurrency and not (concurrency.isdecimal() and 0 < int(concurrency) <= GREATEST):
        raise ConfigurationError(
            f"the environment variable {CONCURRENCY} must be a whole number of at least 1, not {concurrency!r}"
        )
    return Deployment(
        run,
        frozenset(checked_queue_name(name.strip()) for name in queues.split(",")) if queues else None,
        int(concurrency) if concurrency else None,
        InstanceKind.WORKER if environ.get(KIND) == InstanceKind.WORKER else InstanceKind.WEB,
    )
