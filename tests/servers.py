"""Real servers for the tests: each on a free loopback port, with data of its own in a temporary directory.

A server that is not installed is a named skip on a laptop and a failure where `CI` is set.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import ClassVar, NoReturn, Self

import pytest

from tests.waiting import LONG, wait_until

# Linux ties a parent-death signal to the *thread* that started the child, so all children share one that lasts.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="test-servers")


def free_port() -> int:
    """Return a loopback port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def unavailable(what: str) -> NoReturn:
    """Skip the test on a laptop, fail it where `CI` is set: CI runs everything."""
    message = f"{what} is not installed"
    if os.environ.get("CI"):
        pytest.fail(f"{message}, and CI must run this test")
    pytest.skip(message)


def find_binary(name: str, package: str, first: str = "") -> str:
    """Return the path of a program, which may be in the folder `first`; skips or fails the test when it is missing."""
    places = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    path = os.pathsep.join([*([first] if first else []), os.environ.get("PATH", os.defpath), "/usr/sbin", *places])
    found = shutil.which(name, path=path)
    return found or unavailable(f"{name} (Debian package {package})")


def spawn(
    command: Sequence[str],
    *,
    cwd: Path,
    log_path: Path,
    env: Mapping[str, str] | None = None,
    account: pwd.struct_passwd | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, its output appended to `log_path`; it ends with the test process."""
    full = list(command)
    if setpriv := shutil.which("setpriv"):
        full = [setpriv, "--pdeathsig", death_signal.name.removeprefix("SIG"), *full]
    with log_path.open("ab") as log:
        start = _spawner.submit(
            subprocess.Popen,
            full,
            cwd=cwd,
            env=env,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return start.result()


def _stopped(thread: Path) -> bool:
    try:
        return thread.read_text().rpartition(")")[2].split()[0] == "T"
    except FileNotFoundError:
        return True


class Server:
    """One server process. Use as a context manager, or call `start` and `close`.

    `stop` ends it in order, `kill` with SIGKILL; `start` then brings it back on the same port with the same data.
    """

    name: ClassVar[str]
    user: ClassVar[str | None] = None
    """The account to run under when the tests run as root, for servers that refuse root."""
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        self.options = dict(options or {})
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"taskflow-{self.name}-"))
        self.log_path = self.directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._prepared = False
        self._databases = count(1)
        if self._account is not None:
            os.chown(self.directory, self._account.pw_uid, self._account.pw_gid)

    @property
    def _account(self) -> pwd.struct_passwd | None:
        if self.user is None or os.geteuid() != 0:
            return None
        return pwd.getpwnam(self.user)

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def url(self) -> str:
        """Where clients connect."""
        raise NotImplementedError

    def fresh_url(self) -> str:
        """Return the URL of a new, empty database on this server."""
        raise NotImplementedError

    def command(self) -> Sequence[str]:
        """The command line of the server."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str] | None:
        """The environment of the server; `None` is that of the tests."""
        return None

    def prepare(self) -> None:
        """Create the initial data, once, before the first start."""

    def ready(self) -> bool:
        """Whether the server answers."""
        raise NotImplementedError

    def start(self, timeout: float = LONG) -> None:
        """Start, and return once the server answers; does nothing when it runs."""
        if self.running:
            return
        if not self._prepared:
            self.prepare()
            self._prepared = True
        for attempts_left in reversed(range(50)):
            self._process = self._spawn()
            wait_until(lambda: not self.running or self.ready(), f"{self.name} to answer", timeout=timeout)
            if self._process.poll() is None:
                return
            # After a SIGKILL the old process's port or shared memory can be held for a moment longer.
            if not attempts_left:
                raise RuntimeError(f"{self.name} does not start:\n{self.log_path.read_text(errors='replace')[-4000:]}")
            time.sleep(0.1)

    def stop(self, timeout: float = 30.0) -> None:
        """End the server in order and wait for it; SIGKILL after `timeout` seconds."""
        if self._process is None:
            return
        if self.running:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Stop in order and start again: same port, same data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Stop the process with SIGSTOP: it holds its connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        # Each thread stops when it takes the signal, and answers until then.
        wait_until(lambda: all(map(_stopped, Path(f"/proc/{self.pid}/task").glob("*/stat"))), f"{self.name} to stop")

    def resume(self) -> None:
        """Let a paused process continue."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop, and delete the data."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def run(self, *command: str) -> str:
        """Run a helper program under the server's account and return its output."""
        account = self._account
        done = subprocess.run(
            command,
            cwd=self.directory,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _spawn(self) -> subprocess.Popen[bytes]:
        return spawn(
            self.command(),
            cwd=self.directory,
            log_path=self.log_path,
            env=self.environment(),
            account=self._account,
            death_signal=self.stop_signal,
        )


class RedisServer(Server):
    """redis-server with an append-only file that is synced before each reply. `options` are its directives."""

    name = "redis"

    def prepare(self) -> None:
        self._binary = find_binary("redis-server", "redis-server")

    def command(self) -> Sequence[str]:
        directives = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.directory),
            "databases": "1024",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            **self.options,
        }
        return [self._binary, *(word for key, value in directives.items() for word in (f"--{key}", value))]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def fresh_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/{next(self._databases)}"

    def execute(self, *command: str) -> str:
        """Run one command and return the first bytes of its answer."""
        words = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in (one.encode() for one in command))
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(b"*%d\r\n%s" % (len(command), words))
            return connection.recv(4096).decode()

    def ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


class PostgresServer(Server):
    """PostgreSQL that trusts every local connection. `options` are its settings (`-c name=value`).

    `fsync` is off: what the process wrote survives its death, and the tests cut no power.
    """

    name = "postgres"
    user = "postgres"
    stop_signal = signal.SIGINT  # fast shutdown: open sessions are ended

    def prepare(self) -> None:
        self._binary = find_binary("postgres", "postgresql")
        self._isready = find_binary("pg_isready", "postgresql")
        self._psql = find_binary("psql", "postgresql")
        initdb = find_binary("initdb", "postgresql")
        self.run(initdb, "-D", str(self.directory / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8",
                 "--no-locale", "--no-sync")  # fmt: skip

    def command(self) -> Sequence[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": "200",
            **self.options,
        }
        given = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return [self._binary, "-D", str(self.directory / "data"), "-p", str(self.port), *given]

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def fresh_url(self) -> str:
        # Not with `psql`: to fork a process of the tests takes longer than to create the database.
        import psycopg

        name = f"t{next(self._databases)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def execute(self, statement: str) -> str:
        """Run one SQL statement as the superuser and return what `psql` prints."""
        return self.run(self._psql, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement, self.url)

    def ready(self) -> bool:
        answer = subprocess.run([self._isready, "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False, timeout=10)
        return answer.returncode == 0


class PgBouncerServer(Server):
    """pgbouncer in transaction mode in front of a PostgreSQL: few sessions, each of many clients in turns."""

    name = "pgbouncer"
    user = "postgres"
    stop_signal = signal.SIGINT

    def __init__(self, database: PostgresServer, options: Mapping[str, str] | None = None) -> None:
        super().__init__(options)
        self.database = database

    def prepare(self) -> None:
        self._binary = find_binary("pgbouncer", "pgbouncer")
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": "4",
            "max_client_conn": "500",
            # Where no session is left from before, the next client gets any of them.
            "server_round_robin": "1",
            **self.options,
        }
        lines = [
            "[databases]",
            f"* = host=127.0.0.1 port={self.database.port} user=postgres",
            "[pgbouncer]",
            *(f"{key} = {value}" for key, value in settings.items()),
        ]
        (self.directory / "pgbouncer.ini").write_text("\n".join(lines) + "\n")

    def command(self) -> Sequence[str]:
        return [self._binary, str(self.directory / "pgbouncer.ini")]

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def fresh_url(self) -> str:
        return self.database.fresh_url().replace(f":{self.database.port}/", f":{self.port}/")

    def ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False


class MariaDBServer(Server):
    """MariaDB whose root account has no password. `options` are its settings (`--name=value`).

    The redo log is written, not synced, at commit: that survives the death of the process.
    """

    name = "mariadb"
    user = "mysql"

    def prepare(self) -> None:
        self._binary = find_binary("mariadbd", "mariadb-server")
        self._client = find_binary("mariadb", "mariadb-client")
        install = find_binary("mariadb-install-db", "mariadb-server")
        self.run(install, "--no-defaults", f"--datadir={self.directory / 'data'}", "--skip-test-db",
                 "--auth-root-authentication-method=normal")  # fmt: skip

    def command(self) -> Sequence[str]:
        settings = {
            "datadir": str(self.directory / "data"),
            "socket": str(self.directory / "server.sock"),
            "pid-file": str(self.directory / "server.pid"),
            "port": str(self.port),
            "bind-address": "127.0.0.1",
            "skip-name-resolve": "ON",
            "innodb-flush-log-at-trx-commit": "2",
            "innodb-buffer-pool-size": "64M",
            "innodb-log-file-size": "32M",
            "max-connections": "200",
            **self.options,
        }
        return [self._binary, "--no-defaults", *(f"--{key}={value}" for key, value in settings.items())]

    @property
    def url(self) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/mysql"

    def fresh_url(self) -> str:
        import pymysql

        name = f"t{next(self._databases)}"
        connection = pymysql.connect(host="127.0.0.1", port=self.port, user="root", ssl_disabled=True)
        with connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        return f"mysql://root@127.0.0.1:{self.port}/{name}"

    def execute(self, statement: str) -> str:
        """Run one SQL statement as root and return what the client prints."""
        return self.run(self._client, "--no-defaults", "-h", "127.0.0.1", "-P", str(self.port), "-u", "root",
                        "--batch", "--skip-column-names", "-e", statement)  # fmt: skip

    def ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                return len(connection.recv(64)) > 4
        except OSError:
            return False


class RabbitServer(Server):
    """RabbitMQ for the guest account, with an epmd of its own. `wipe` ends it with all messages."""

    name = "rabbitmq"

    def prepare(self) -> None:
        # Not the wrapper in /usr/sbin, which wants to be root.
        self._binary = find_binary("rabbitmq-server", "rabbitmq-server", "/usr/lib/rabbitmq/bin")
        self._epmd = find_binary("epmd", "erlang-base")
        self._epmd_port, distribution = free_port(), free_port()
        (self.directory / "plugins").write_text("[].\n")
        (self.directory / "environment").write_text("")
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.directory),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_ALLOW_INPUT": "1",  # in the foreground: a signal must reach the server itself
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "environment"),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "plugins"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_NODENAME": f"t{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_PID_FILE": str(self.directory / "server.pid"),
            # One scheduler that does not spin: the tests share two cores.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput +S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
            **self.options,
        }

    def command(self) -> Sequence[str]:
        return [self._binary]

    def environment(self) -> Mapping[str, str] | None:
        return self._environment

    def wipe(self) -> None:
        """Lose all messages and queues, as a broker on a new disk."""
        self.kill()
        shutil.rmtree(self.directory / "data")
        self.start()

    def close(self) -> None:
        self.stop()
        if self._prepared:
            # It is a daemon that the server has started.
            subprocess.run(
                [self._epmd, "-port", str(self._epmd_port), "-kill"], check=False, capture_output=True, timeout=10
            )
        super().close()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return connection.recv(1) == b"\x01"
        except OSError:
            return False


class PrometheusServer(Server):
    """Prometheus with the given configuration; `files` (rules and the like) are written beside it first."""

    name = "prometheus"

    def __init__(
        self, config: str, *, files: Mapping[str, str] | None = None, options: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(options)
        self.config = config
        self.files = dict(files or {})

    def prepare(self) -> None:
        self._binary = find_binary("prometheus", "prometheus")
        for name, text in {**self.files, "prometheus.yml": self.config}.items():
            (self.directory / name).write_text(text)

    def command(self) -> Sequence[str]:
        flags = {
            "config.file": str(self.directory / "prometheus.yml"),
            "storage.tsdb.path": str(self.directory / "data"),
            "web.listen-address": f"127.0.0.1:{self.port}",
            "enable-feature": "exemplar-storage",
            "log.level": "warn",
            **self.options,
        }
        return [self._binary, *(f"--{key}={value}" for key, value in flags.items())]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
