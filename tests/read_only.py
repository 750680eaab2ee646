"""Database servers that refuse writes, as one does that a failover has made a replica."""

from __future__ import annotations

from sqlalchemy import make_url

from tests.servers import MariaDBServer, PostgresServer, RedisServer, Server

_ACCOUNT = "shop"


def url_that_obeys(server: Server, url: str) -> str:
    """The URL of the same database for an account that cannot write while the server is read-only."""
    if not isinstance(server, MariaDBServer):
        return url
    # The administrator may write to a server that is read-only.
    server.execute(f"CREATE USER IF NOT EXISTS {_ACCOUNT}@'%' IDENTIFIED BY '{_ACCOUNT}'")
    server.execute(f"GRANT ALL ON *.* TO {_ACCOUNT}@'%'; REVOKE SUPER, READ ONLY ADMIN ON *.* FROM {_ACCOUNT}@'%'")
    return make_url(url).set(username=_ACCOUNT, password=_ACCOUNT).render_as_string(hide_password=False)


def set_read_only(server: Server, read_only: bool) -> None:
    """Make it read-only, or writable again."""
    match server:
        case RedisServer():
            server.execute("REPLICAOF", *(("127.0.0.1", "1") if read_only else ("NO", "ONE")))
        case PostgresServer():
            server.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if read_only else 'off'}")
            server.execute("SELECT pg_reload_conf()")
        case MariaDBServer():
            server.execute(f"SET GLOBAL read_only = {int(read_only)}")
        case _:
            raise TypeError(server)
