"""The tests' own servers: they keep their data over a crash, and give each test an empty database."""

from __future__ import annotations

import json
import urllib.request

from tests.servers import MariaDBServer, PostgresServer, PrometheusServer, RedisServer


def test_redis_keeps_its_data_over_a_crash() -> None:
    import redis

    with RedisServer() as server:
        url = server.fresh_url()
        with redis.Redis.from_url(url) as client:
            client.set("key", "value")
        server.kill()
        assert not server.running
        server.start()
        with redis.Redis.from_url(url) as client:
            assert client.get("key") == b"value"
        with redis.Redis.from_url(server.fresh_url()) as client:
            assert client.get("key") is None


def test_postgres_keeps_its_data_over_a_crash() -> None:
    with PostgresServer() as server:
        url = server.fresh_url()
        server.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        server.kill()
        server.start()
        assert server.execute("SELECT answer FROM kept").strip() == "42"
        assert url != server.fresh_url()


def test_mariadb_keeps_its_data_over_a_crash() -> None:
    with MariaDBServer() as server:
        url = server.fresh_url()
        server.execute("CREATE TABLE t1.kept ENGINE=InnoDB AS SELECT 42 AS answer")
        server.kill()
        server.start()
        assert server.execute("SELECT answer FROM t1.kept").strip() == "42"
        assert url != server.fresh_url()


def test_prometheus_answers_queries() -> None:
    with (
        PrometheusServer("global: {scrape_interval: 1s}\nscrape_configs: []\n") as server,
        urllib.request.urlopen(f"{server.url}/api/v1/query?query=1%2B1", timeout=10) as answer,
    ):
        assert json.load(answer)["data"]["result"][1] == "2"
