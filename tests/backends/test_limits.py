"""No wait of one instance is as long as the lease of another."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow_otel.backends import MemoryBackend, MySQLBackend, PostgresBackend, RedisBackend, SqliteBackend
from taskflow_otel.backends.limits import DEFAULT_LEASE, LeaseAware, Limits
from taskflow_otel.errors import BackendUnavailableError
from tests.servers import free_port

seconds = st.floats(min_value=0.01, max_value=1e6)


@given(lease=seconds, timeout=st.one_of(st.none(), seconds))
def test_a_failed_operation_leaves_time_for_another_within_the_lease(lease: float, timeout: float | None) -> None:
    limits = Limits.of_lease(lease, timeout)
    assert 0 < limits.lock < limits.operation <= lease / 2
    assert limits.lock < limits.idle < lease


def test_a_timeout_that_fits_the_lease_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    assert Limits.of_lease(15, 2).operation == 2
    assert caplog.records == []


def test_a_timeout_that_is_too_long_for_the_lease_is_cut_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        limits = Limits.of_lease(10, 60)
        assert caplog.messages == []
        limits.report("PostgreSQL at db")
    assert limits.operation == 5
    assert caplog.messages == [
        "PostgreSQL at db: timeout=60 is too long for a lease of 10 s; an operation is given up after 5 s"
    ]


@pytest.mark.parametrize(
    ("lease", "warned"), [(60.0, False), (DEFAULT_LEASE, True), (30.0, True)], ids=["long", "default", "short"]
)
@pytest.mark.parametrize("kind", ["postgres", "mysql", "redis"])
async def test_only_a_timeout_that_is_too_long_for_the_lease_in_force_is_warned_about(
    kind: str, lease: float, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    backend: PostgresBackend | MySQLBackend | RedisBackend
    match kind:
        case "postgres":
            backend = PostgresBackend(f"postgresql://127.0.0.1:{free_port()}/x", timeout=20)
        case "mysql":
            backend = MySQLBackend(f"mysql://127.0.0.1:{free_port()}/x", timeout=20)
        case "redis":
            backend = RedisBackend(f"redis://127.0.0.1:{free_port()}", timeout=20)
    if lease != DEFAULT_LEASE:
        backend.use_lease(lease)
    with pytest.raises(BackendUnavailableError):
        await backend.open()
    assert sum("timeout=20 is too long for a lease of" in message for message in caplog.messages) == warned


def test_backends_on_servers_follow_the_lease_and_the_one_in_memory_has_no_limits() -> None:
    assert isinstance(PostgresBackend("postgresql://localhost/x"), LeaseAware)
    assert not isinstance(MemoryBackend(), LeaseAware)
    assert isinstance(SqliteBackend("tasks.db"), LeaseAware)
