"""python -m tests.e2e.transactions: orders in transactions, in processes that are killed, on three databases.

Each order is added in a transaction with the task that ships it, through the four kinds of sessions and connections in
turn; half of the transactions are rolled back. The processes are killed at each of four named points in turn. In the
end, exactly the committed orders must have been shipped.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import create_engine, make_url, text

from tests.apps.transactions_app import POINTS
from tests.callers import DRIVERS
from tests.procs import ROOT
from tests.servers import MariaDBServer, PostgresServer, Server, spawn

_SERVERS: dict[str, Callable[[], Server]] = {"postgres": PostgresServer, "mysql": MariaDBServer}
DATABASES = ("sqlite", *_SERVERS)
_SPREAD = 5
"""Kills come after numbers of commits that differ, so that each kind of session meets each point."""


class Done(NamedTuple):
    """What was done."""

    shipped: Counter[int]
    """How often the task of each order ran."""
    orders: set[int]
    """The orders that were committed."""
    kills: Counter[str]
    """How many processes were killed at each point, and with which kind of session."""


def storm(url: str, directory: Path, number: int, after: int) -> Done:
    """Add this number of orders; each process is killed once at least `after` of its transactions have committed."""
    names = {name: str(directory / name.lower()) for name in ("APP_NOTES", "APP_ADDED", "APP_KILLS")}
    for life in itertools.count():
        first = _lines(names["APP_ADDED"])
        point = POINTS[life % len(POINTS)] if first < number else ""
        command = [sys.executable, "-m", "tests.apps.transactions_app", url, str(first), str(number - first), point]
        command.append(str(after + life % _SPREAD))
        log = directory / "app.log"
        process = spawn(command, cwd=ROOT, log_path=log, env={**os.environ, **names})
        code = process.wait(timeout=250)
        # The last orders may be too few for a kill.
        killed = code == -9 or (code == 0 and _lines(names["APP_ADDED"]) == number)
        assert killed if point else code == 0, f"{point}: {code}\n{log.read_text()[-4000:]}"
        if not point:
            break
    parsed = make_url(url)
    kind = parsed.get_backend_name().replace("mariadb", "mysql")
    engine = create_engine(parsed.set(drivername=f"{kind}+{DRIVERS[kind][0]}"))
    with engine.connect() as connection:
        orders = set(connection.scalars(text("SELECT id FROM orders")))
    engine.dispose()
    notes, kills = (Path(names[name]).read_text() for name in ("APP_NOTES", "APP_KILLS"))
    return Done(Counter(map(int, notes.split())), orders, Counter(kills.splitlines()))


def _lines(path: str) -> int:
    return len(Path(path).read_text().splitlines()) if Path(path).exists() else 0


@contextlib.contextmanager
def _opened(database: str, directory: Path) -> Iterator[str]:
    if database == "sqlite":
        yield f"sqlite:///{directory / 'tasks.db'}"
    else:
        with _SERVERS[database]() as server:
            yield server.fresh_url()


def main() -> int:
    """Run the storm on each database; the exit status is 1 if something else was executed than was committed."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.transactions", description=__doc__)
    parser.add_argument("--database", action="append", choices=DATABASES, help="default: every one, in turn")
    parser.add_argument("--number", type=int, default=1_000, help="orders that are added (default: 1000)")
    parser.add_argument("--after", type=int, default=12, help="commits after which a process is killed (default: 12)")
    options = parser.parse_args()
    wrong = 0
    for database in options.database or DATABASES:
        with tempfile.TemporaryDirectory(prefix="taskflow-orders-") as place, _opened(database, Path(place)) as url:
            done = storm(url, Path(place), options.number, options.after)
        twice = sum(times > 1 for times in done.shipped.values())
        sys.stdout.write(
            f"{database}: {options.number} added, {len(done.orders)} committed, {len(done.shipped)} executed, {twice} "
            f"of them twice; {done.kills.total()} kills\n"
        )
        for where, times in sorted(done.kills.items()):
            sys.stdout.write(f"    {times:3} {where}\n")
        sys.stdout.flush()
        wrong += done.shipped.keys() != done.orders
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
