"""Everything that a storage holds, as bytes."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import astuple
from redis import Redis

from taskflow_otel.backends import Backend
from tests.servers import MariaDBServer, PostgresServer, RedisServer, find_binary


def dump(request: pytest.FixtureRequest, backend: Backend) -> bytes:
    """The content of the storage of this test, raw: files with their write-ahead logs, or what the server hands out."""
    match backend.name:
        case "memory":
            return repr(_bare(vars(backend))).encode()
        case "sqlite":
            directory: Path = request.getfixturevalue("tmp_path")
            return b"".join(path.read_bytes() for path in directory.iterdir())
        case "postgres":
            postgres: PostgresServer = request.getfixturevalue("postgres_server")
            if "pgbouncer" in request.node.name:
                # The same database, past the pooler: a dump needs a session of its own.
                pooled: str = request.getfixturevalue("pgbouncer_url")
                url = postgres.url.rpartition("/")[0] + "/" + pooled.rpartition("/")[2]
            else:
                url = request.getfixturevalue("postgres_url")
            return postgres.run(find_binary("pg_dump", "postgresql-client"), url).encode()
        case "mysql":
            mariadb: MariaDBServer = request.getfixturevalue("mariadb_server")
            _, _, database = request.getfixturevalue("mariadb_url").rpartition("/")
            command = find_binary("mariadb-dump", "mariadb-client")
            where = ("-h", "127.0.0.1", "-P", str(mariadb.port), "-u", "root")
            return mariadb.run(command, "--no-defaults", *where, database).encode()
        case "redis":
            return _dump_redis(request.getfixturevalue("redis_server"), request.getfixturevalue("redis_url"))
    raise ValueError(f"how to dump {backend.name!r} is not known")


def _bare(value: Any) -> Any:
    """The same without the structs, whose own `repr` hides arguments."""
    match value:
        case Struct():
            return [_bare(part) for part in astuple(value)]
        case dict():
            return [(key, _bare(part)) for key, part in value.items()]
        case list() | tuple() | set() | deque():
            return [_bare(part) for part in value]
        case _:
            return value


def _dump_redis(server: RedisServer, url: str) -> bytes:
    """Each value by its type, and the append-only file as it is on disk."""
    parts = [path.read_bytes() for path in (server.directory / "appendonlydir").iterdir()]
    with Redis.from_url(url, protocol=2) as client:
        for key in client.scan_iter():
            match client.type(key):
                case b"hash":
                    parts.append(repr(client.hgetall(key)).encode())
                case b"string":
                    parts.append(client.get(key) or b"")
                case b"set":
                    parts += client.smembers(key)
                case b"list":
                    parts += client.lrange(key, 0, -1)
                case b"zset":
                    parts += client.zrange(key, 0, -1)
                case other:
                    raise ValueError(f"a Redis value of the type {other!r}")
    return b"\n".join(parts)
