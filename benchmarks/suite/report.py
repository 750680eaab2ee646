"""What a run found: the machine it ran on, and its table."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.suite.runner import PEERS

_LIBRARIES = ("fastapi", "starlette", "uvicorn", "uvloop", "msgspec", "sqlalchemy", "opentelemetry-sdk", "pydantic",
              "redis", "psycopg", "aiomysql")  # fmt: skip
_PEERS = ("taskiq", "taskiq-redis", "saq", "arq", "celery", "procrastinate", "pgqueuer", "huey", "dbos")


def header() -> dict[str, Any]:
    """Machine, versions, and the load before the run."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "load_before": round(os.getloadavg()[0], 2),
        },
        "versions": {
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "sqlite": sqlite3.sqlite_version,
            **{name: found for name in _LIBRARIES if (found := _version(name))},
        },
        "peers": _peers(),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _peers() -> dict[str, str]:
    if not PEERS.exists():
        return {}
    program = f"""
from importlib.metadata import PackageNotFoundError, version
for name in {_PEERS!r}:
    try:
        print(name, version(name))
    except PackageNotFoundError:
        pass
"""
    done = subprocess.run([PEERS, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    return dict(line.split() for line in done.stdout.splitlines())


def line(name: str, found: Mapping[str, Any]) -> str:
    """One row of the table."""
    said = [f"{name:18} {found['what']}"]
    for label, one in found["cases"].items():
        said.append(f"{'':20}{label:24} {number(one):>34} {found['unit']}")
    for label, reason in found["missing"].items():
        said.append(f"{'':20}{label:24} not measured: {reason}")
    if found["ratio"] is not None:
        said.append(f"{'':20}{'ratio':24} {number(found['ratio']):>34}")
    if found["budget"] is not None:
        said.append(f"{'':20}{'budget':24} {found['budget']:>34} {verdict(found)}")
    return "\n".join(said)


def number(one: Mapping[str, float]) -> str:
    """A median with its quartiles."""
    median, lower, upper = (digits(one[place]) for place in ("median", "q1", "q3"))
    return f"{median} ({lower} to {upper})"


def digits(value: float) -> str:
    """Few digits: `12,300`, `42.1`, `0.83`."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def verdict(found: Mapping[str, Any]) -> str:
    """Whether a row's budget was met."""
    return {True: "met", False: "NOT MET", None: "not measured"}[found["met"]]


def summary(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Counts for the last line."""
    verdicts = [found["met"] for found in rows.values() if found["budget"] is not None]
    return (
        f"{sum(one is True for one in verdicts)} of {len(verdicts)} budgets met, "
        f"{sum(one is None for one in verdicts)} not measured"
    )


def commit(checkout: Path) -> str:
    """The commit of a checkout, with a plus sign if its files differ from it."""
    git = ("git", "-C", str(checkout))
    try:
        found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "taskflow_otel"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip() + ("+" if changed.stdout else "")
