"""What only MySQL and MariaDB do: a packet has a largest size, and rows have formats."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

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
    assert alone.value.reason is not None
    assert "max_allowed_packet" in alone.value.reason
    assert str(make_url(mariadb_url).host) not in alone.value.reason
    assert await backend.apply([Insert(good)]) == [APPLIED]
    await backend.close()


async def test_a_server_whose_default_row_format_is_compact_gets_tables_that_hold_the_indexes(mariadb_url: str) -> None:
    url = make_url(mariadb_url).set(drivername="mysql+aiomysql")
    admin = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with admin.connect() as connection:
        await connection.exec_driver_sql("SET GLOBAL innodb_default_row_format = compact")
    backend = MySQLBackend(mariadb_url)
    try:
        await backend.open()
        assert await backend.apply([Insert(make_task(idempotency_key="k" * 255))]) == [APPLIED]
        async with admin.connect() as connection:
            found = await connection.exec_driver_sql(
                "SELECT DISTINCT row_format FROM information_schema.tables WHERE table_schema = DATABASE()"
            )
            assert [row[0].lower() for row in found] == ["dynamic"]
    finally:
        async with admin.connect() as connection:
            await connection.exec_driver_sql("SET GLOBAL innodb_default_row_format = dynamic")
        await admin.dispose()
        await backend.close()
