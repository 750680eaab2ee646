"""The settings of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from taskflow_otel.backends.base import Backend
from taskflow_otel.backends.pool import KeepsPool
from taskflow_otel.engine.deployment import QUEUES, Deployment
from taskflow_otel.errors import ConfigurationError
from taskflow_otel.model.options import QueueConfig, checked_queue_name, flag, seconds, whole
from taskflow_otel.model.record import DEFAULT_QUEUE

_LONGEST_RETENTION = 36_525
"""Days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Settings of one engine. All durations are seconds."""

    persist_all: bool = False
    """Treat every decorated task as `persist=True`."""
    queues: dict[str, QueueConfig] = field(default_factory=dict)
    deployment: Deployment = field(default_factory=Deployment)
    """What this process runs."""
    release: str = ""
    """That of the application; empty if it is unknown."""
    max_concurrent_tasks: int | None = None
    max_sync_threads: int | None = None
    snapshot_interval: float = 1.0
    """Longest time before a transition of a task that is not persisted is written."""
    retention_days: float | None = None
    audit_retention_days: float | None = 90.0
    """How long the audit and finished bulk operations are kept."""
    shutdown_timeout: float = 10.0
    """How long a drain waits for running tasks before it cancels them."""
    commit_timeout: float = 5.0
    """How long a response may wait for the commit of its tasks before the client gets 503."""
    heartbeat_interval: float = 1.0
    lease_seconds: float = 15.0
    """An instance without a heartbeat for this long is dead. A longer lease survives longer pauses; a shorter one lets
    others take over sooner."""
    max_crashes: int = 3
    """A task that was running in this many crashes becomes `FAILED` with the reason `poison` (`docs/guarantees.md`)."""
    finished_window: int = 1_000
    """Finished tasks kept in memory."""
    cancel_grace: float = 5.0
    """How long a cancelled attempt may run on before it is reported as stuck."""

    blocked_after: float | None = 0.25
    """A callback that keeps the event loop for so long is reported; `None` watches nothing."""

    def shared_queues(self, backend: Backend) -> frozenset[str]:
        """The names of the shared queues.

        Raises `ConfigurationError` if the backend cannot share tasks, or the deployment names an unknown queue.
        """
        names = {DEFAULT_QUEUE, *self.queues}
        if self.deployment.run == "here":
            names = {name for name, config in self.queues.items() if config.run != "here"}
        if names and not (backend.durable and isinstance(backend, KeepsPool)):
            raise ConfigurationError(
                f"the queues {', '.join(sorted(names))} are shared, but the {backend.name} backend cannot share tasks: "
                "give TaskManager a database (snapshot_db=..., or snapshot_backend=...)"
            )
        unknown = (self.deployment.queues or frozenset()) - {DEFAULT_QUEUE, *self.queues}
        if unknown:
            raise ConfigurationError(
                f"the environment variable {QUEUES} names queues that do not exist: {', '.join(sorted(unknown))}"
            )
        return frozenset(names)

    def __post_init__(self) -> None:
        flag("requeue_pending", self.persist_all)
        seconds("snapshot_interval", self.snapshot_interval, exclusive=True)
        seconds("shutdown_timeout", self.shutdown_timeout)
        seconds("commit_timeout", self.commit_timeout, exclusive=True)
        seconds("heartbeat_interval", self.heartbeat_interval, exclusive=True)
        seconds("lease_seconds", self.lease_seconds, exclusive=True)
        seconds("cancel_grace", self.cancel_grace)
        if self.blocked_after is not None:
            seconds("blocked_after", self.blocked_after, exclusive=True)
        if self.lease_seconds < 2 * self.heartbeat_interval:
            raise ConfigurationError(
                f"lease_seconds ({self.lease_seconds:g}) must be at least twice heartbeat_interval "
                f"({self.heartbeat_interval:g}), or living instances are declared dead"
            )
        for name in ("retention_days", "audit_retention_days"):
            if (days := getattr(self, name)) is not None:
                retention_of(name, days)
        for name in ("max_concurrent_tasks", "max_sync_threads"):
            value = getattr(self, name)
            if value is not None:
                whole(name, value, minimum=1)
        whole("max_crashes", self.max_crashes, minimum=1)
        whole("finished_window", self.finished_window, minimum=0)


def retention_of(name: str, days: float) -> timedelta:
    """How long something is kept; raises `ConfigurationError`."""
    return timedelta(days=seconds(name, days, maximum=_LONGEST_RETENTION, exclusive=True, unit="days"))


def queue_configs(queues: Mapping[str, QueueConfig] | None, max_size: int | None) -> dict[str, QueueConfig]:
    """The queues that a user has named, `max_size` being that of the default queue; raises `ConfigurationError`."""
    configs = {checked_queue_name(name): config for name, config in (queues or {}).items()}
    for name, config in configs.items():
        if not isinstance(config, QueueConfig):
            raise ConfigurationError(f"queues[{name!r}] must be a QueueConfig, not {config!r}")
    if max_size is not None:
        if DEFAULT_QUEUE in configs:
            raise ConfigurationError("give max_size, or queues={'default': QueueConfig(max_size=...)}, not both")
        configs[DEFAULT_QUEUE] = QueueConfig(max_size=max_size)
    return configs
