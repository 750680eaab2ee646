"""What only MySQL and MariaDB do: a packet has a largest size."""

from __future__ import annotations

import pytest

from taskflow_otel.backends import MySQLBackend
from taskflow_otel.backends.base import Insert
from taskflow_otel.errors import BackendError
from taskflow_otel.testing.backends.fixtures import APPLIED
from taskflow_otel.testing.backends.samples import make_task


async def test_too_large_a_packet_is_refused_for_good_and_alone(mariadb_url: str) -> None:
    backend = MySQLBackend(mariadb_url)
    await backend.open()
    huge, good = make_task(payload="x" * (20 << 20)), make_task()
    with pytest.raises(BackendError) as both:
        await backend.apply([Insert(huge), Insert(good)])
    assert both.value.divisible
    with pytest.raises(BackendError) as alone:
        await backend.apply([Insert(huge)])
    assert not alone.value.transient
    assert await backend.apply([Insert(good)]) == [APPLIED]
    await backend.close()
