"""The command `taskflow-otel doctor`: looks at the installation, a backend, a running application and the collector."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import platform
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from taskflow_otel.cli.options import URL
from taskflow_otel.cli.options import namespace as namespace_option
from taskflow_otel.cli.output import say_json, say_table, terminal
from taskflow_otel.errors import TaskflowError
from taskflow_otel.runtime.clock import SYSTEM_CLOCK
from taskflow_otel.runtime.passwords import without_passwords
from taskflow_otel.runtime.terminal import say
from taskflow_otel.version import __version__

if TYPE_CHECKING:
    from taskflow_otel.model.query import Instance

EXTRAS = {
    "otel": "opentelemetry.sdk",
    "redis": "redis",
    "postgres": "psycopg",
    "mysql": "aiomysql",
    "scheduler": "croniter",
    "encryption": "cryptography",
    "process": "cloudpickle",
    "passwords": "argon2",
    "client": "httpx",
    "worker": "uvicorn",
    "celery": "celery",
    "cli": "rich",
}
"""A module of each extra."""
_SKEW = 2.0
"""Seconds that two clocks may differ."""
_PATIENCE = 15.0
_OTLP, _OTLP_DEFAULT = "OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317"


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One result: what was looked at, how it is, and what to do if it is not well."""

    subject: str
    verdict: Verdict
    message: str


@click.command()
@click.option("--backend", metavar="URL|PATH", help="postgresql://…, mysql://…, redis://… or a SQLite path.")
@namespace_option
@click.option(
    "--url",
    envvar=URL,
    metavar="URL",
    help=f"The administration of an application, such as http://ada:secret@localhost:8000/tasks (or: ${URL}).",
)
@click.option(
    "--otlp", metavar="URL", envvar=_OTLP, help=f"The address of the collector, such as {_OTLP_DEFAULT} (or: ${_OTLP})."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each finding.")
def doctor(backend: str | None, namespace: str | None, url: str | None, otlp: str | None, as_json: bool) -> int:
    """Look for what is wrong, and say what to do.

    Looks at the installation, and at what is named: a backend, the administration of a running application, the
    collector of OpenTelemetry. Each finding says what to do. A backend is opened as an application opens it, so its
    schema is created or migrated. The exit status is 1 if there is an error.
    """
    found = asyncio.run(_examine(backend, namespace, url, otlp))
    if as_json:
        for finding in found:
            say_json(asdict(finding), sys.stdout)
    elif terminal(sys.stdout):
        rows = [(finding.verdict.value, finding.subject, finding.message) for finding in found]
        say_table(("verdict", "subject", "message"), rows, sys.stdout)
    else:
        for finding in found:
            say(f"{finding.verdict:8}{finding.subject}: {finding.message}", sys.stdout)
    return int(any(finding.verdict is Verdict.ERROR for finding in found))


async def _examine(backend: str | None, namespace: str | None, url: str | None, otlp: str | None) -> list[Finding]:
    found = list(examine_installation())
    if backend:
        found += [finding async for finding in examine_backend(backend, namespace)]
    if url:
        found += await asyncio.to_thread(lambda: list(examine_application(url)))
    if otlp:
        found.append(await examine_collector(otlp))
    return found


def examine_installation() -> Iterator[Finding]:
    """Versions, and the extras that are there."""
    python = platform.python_version()
    yield Finding("installation", Verdict.OK, f"taskflow-otel {__version__}, Python {python}, {platform.system()}")
    there = {extra: _is_there(module) for extra, module in EXTRAS.items()}
    missing = [extra for extra, found in there.items() if not found]
    named = ", ".join(extra for extra, found in there.items() if found) or "none"
    rest = f"; for more: pip install 'taskflow-otel[{','.join(missing)}]'" if missing else ""
    yield Finding("extras", Verdict.OK, f"{named}{rest}")
    if platform.system() != "Linux":
        yield Finding(
            "platform",
            Verdict.WARNING,
            "the library is tested on Linux: develop here, and run it there. Processes of this host cannot see each "
            "other, so a dead one is taken over when its lease has run out",
        )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


async def examine_backend(where: str, namespace: str | None = None) -> AsyncIterator[Finding]:
    """Whether a backend can be opened, what it warns of, and what the instances in it say."""
    # Help and completion load no backend.
    from taskflow_otel.cli.ledger import open_backend

    subject = f"backend {without_passwords(where)}"
    path = _sqlite_path(where)
    if path is not None and not path.exists():
        yield _new_database(subject, path)
        return
    with _warnings() as warnings:
        try:
            backend = open_backend(where, namespace)
            async with asyncio.timeout(_PATIENCE):
                await backend.open()
        except TimeoutError:
            yield Finding(subject, Verdict.ERROR, f"no answer in {_PATIENCE:g} s. Is it the right address and port?")
            return
        except (TaskflowError, OSError) as exc:
            yield Finding(subject, Verdict.ERROR, str(exc))
            return
        try:
            yield Finding(subject, Verdict.OK, "it answers, and its schema is that of this version")
            for finding in _of_instances(subject, await backend.instances(), path is not None):
                yield finding
        except TaskflowError as exc:
            yield Finding(subject, Verdict.ERROR, str(exc))
        finally:
            await backend.close()
    for warning in warnings:
        yield Finding(subject, Verdict.WARNING, warning)


def _sqlite_path(where: str) -> Path | None:
    return Path(where.removeprefix("sqlite:///")) if "://" not in where or where.startswith("sqlite:///") else None


def _new_database(subject: str, path: Path) -> Finding:
    """A SQLite file that is not there yet."""
    folder = path.absolute().parent
    if not folder.is_dir():
        return Finding(subject, Verdict.ERROR, f"there is no directory {str(folder)!r}: create it")
    if not os.access(folder, os.W_OK):
        return Finding(
            subject, Verdict.ERROR, f"this account may not write to {str(folder)!r}, where the database would be"
        )
    return Finding(subject, Verdict.OK, f"there is no file yet; the application will create it in {str(folder)!r}")


def _of_instances(subject: str, instances: Sequence[Instance], one_host: bool) -> Iterator[Finding]:
    """What the heartbeats of the instances show."""
    now = SYSTEM_CLOCK.now()
    alive = [one for one in instances if (now - one.heartbeat_at).total_seconds() < one.lease_seconds]
    if len(alive) < len(instances):
        yield Finding(
            subject,
            Verdict.WARNING,
            f"{len(instances) - len(alive)} of {len(instances)} instances are silent for longer than their lease. If "
            "no instance runs, their tasks wait for the next start",
        )
    for one in instances:
        ahead = (one.heartbeat_at - now).total_seconds()
        if ahead > _SKEW:
            yield Finding(
                subject,
                Verdict.ERROR,
                f"the clock of {one.instance_id} is {ahead:.0f} s ahead of this one. Synchronise the clocks (NTP): "
                "leases and schedules compare them",
            )
    hosts = {one.host for one in alive if one.host}
    if one_host and len(hosts) > 1:
        yield Finding(
            subject,
            Verdict.ERROR,
            f"{len(hosts)} hosts use this SQLite file. Its locks do not work over a network: use a server",
        )


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the library logs in the meantime, as texts, in place of the lines on the terminal."""
    caught: list[str] = []

    class Caught(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            caught.append(record.getMessage())

    handler, logger = Caught(logging.WARNING), logging.getLogger("taskflow_otel")
    others, logger.handlers, logger.propagate = logger.handlers, [handler], False
    try:
        yield caught
    finally:
        logger.handlers, logger.propagate = others, True


def examine_application(url: str) -> Iterator[Finding]:
    """Whether an administration answers under a URL, lets the caller in, and is ready; and its clock."""
    subject = f"application {_named(url)}"
    try:
        from taskflow_otel.client import Client
        from taskflow_otel.client.errors import LoginRequiredError
    except TaskflowError as exc:
        yield Finding(subject, Verdict.ERROR, str(exc))
        return
    token = os.environ.get("TASKFLOW_TOKEN") or None
    try:
        with Client(url, token=token) as client:
            client.get_liveness()
            yield from _clock_of(subject, url)
            try:
                health = client.get_health()
            except LoginRequiredError:
                yield Finding(
                    subject,
                    Verdict.ERROR,
                    "it asks for a login, and this one is missing or wrong. Put user and password into the URL, or a "
                    "token into $TASKFLOW_TOKEN",
                )
                return
            if health.reasons:
                yield Finding(subject, Verdict.ERROR, f"it is not ready: {'; '.join(health.reasons)}")
            else:
                yield Finding(subject, Verdict.OK, f"instance {health.instance} is ready")
            if client.get_session().actor is None and token is None and urlsplit(url).username is None:
                yield Finding(
                    subject,
                    Verdict.WARNING,
                    "it is open to everyone who can reach it. Close it with TaskAdmin(auth=(user, password))",
                )
    except (TaskflowError, OSError) as exc:
        yield Finding(subject, Verdict.ERROR, str(exc))


def _clock_of(subject: str, url: str) -> Iterator[Finding]:
    """The clock of a server, by the time that it sends with its answer."""
    from taskflow_otel.client.extra import httpx

    before = SYSTEM_CLOCK.now()
    try:
        sent = httpx.get(url.rstrip("/") + "/livez", timeout=_PATIENCE).headers.get("date")
    except httpx.HTTPError as exc:
        yield Finding(subject, Verdict.WARNING, f"its clock cannot be read: {str(exc) or type(exc).__name__}")
        return
    if sent is None:
        return
    try:
        moment = parsedate_to_datetime(sent)
    except (ValueError, OverflowError):
        yield Finding(subject, Verdict.WARNING, f"its clock cannot be read: it sent {sent!r} as its time")
        return
    # "-0000" is UTC, of a sender that keeps its zone to itself (RFC 5322, 3.3); for Python, it is no zone.
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    # Whole seconds, rounded down.
    skew = (moment - before).total_seconds()
    if not -_SKEW - 1 < skew < _SKEW + 1:
        yield Finding(
            subject,
            Verdict.WARNING,
            f"its clock differs from this one by {abs(skew):.0f} s. Synchronise the clocks (NTP)",
        )


async def examine_collector(url: str) -> Finding:
    """Whether something listens where telemetry is sent."""
    subject = f"collector {_named(url)}"
    no_address = Finding(subject, Verdict.ERROR, f"this is not an address; it should look like {_OTLP_DEFAULT}")
    try:
        parts = urlsplit(_with_scheme(url))
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return no_address
    if not parts.hostname:
        return no_address
    try:
        async with asyncio.timeout(_PATIENCE):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except UnicodeError:
        # A name that no host can have: a part of it is empty or too long.
        return no_address
    except (OSError, TimeoutError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "no answer"
        return Finding(
            subject,
            Verdict.ERROR,
            f"nothing listens at {parts.hostname}:{port} ({reason}). Start the collector, or correct ${_OTLP}. Tasks "
            "run without it; their spans and logs are dropped and counted",
        )
    writer.close()
    return Finding(subject, Verdict.OK, "something listens there")


def _with_scheme(url: str) -> str:
    return url if "://" in url else f"http://{url}"


def _named(url: str) -> str:
    """A URL as a finding names it. Only where there is a scheme, a password is recognised."""
    return without_passwords(_with_scheme(url))
