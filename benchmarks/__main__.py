"""Every figure beside its reference, in one run: `python -m benchmarks` (`make bench`).

    python -m benchmarks [--only ROW ...] [--rounds 7] [--quick] [--json FILE [--keep]] [--package DIR]
    python -m benchmarks --list

The cases of a row take turns, each in a fresh process, so that what slows the machine slows both. A row shows the
median and the quartiles of each case and of the ratio of each round, and whether its budget is met. `--quick` runs a
few operations once: it shows that the rows work, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from pathlib import Path
from typing import Any

from benchmarks.suite import report, runner
from benchmarks.suite.rows import ROWS, find


def main() -> None:
    """Measure the rows and print them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", action="extend", default=[], metavar="ROW")
    parser.add_argument("--rounds", type=int, default=None, help=f"of each row (default: {runner.ROUNDS})")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was found")
    parser.add_argument("--keep", action="store_true", help="keep the rows of that file that are not measured now")
    parser.add_argument(
        "--package",
        type=Path,
        default=runner.ROOT,
        metavar="DIR",
        help="measure the library of another checkout: its taskflow_otel alone is taken from there",
    )
    parser.add_argument("--list", action="store_true", help="name the rows")
    given = parser.parse_args()
    if given.list:
        for row in ROWS:
            print(f"{row.name:18} {'' if row.budget is None else row.budget!s:8} {row.what}")
        return
    try:
        rows = find(given.only)
    except LookupError as problem:
        parser.error(str(problem))
    rounds = given.rounds or (1 if given.quick else runner.ROUNDS)
    package: Path = given.package.resolve()
    command = f"python -m benchmarks --rounds {rounds}" + (" --quick" if given.quick else "")
    found: dict[str, Any] = {"command": command, "quick": given.quick, **report.header(), "rows": {}}
    if given.keep and given.json and given.json.exists():
        earlier = json.loads(given.json.read_text())
        found["quick"] = found["quick"] or earlier["quick"]
        found["rows"] = earlier["rows"]
    machine = found["machine"]
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}")
    for kind in ("versions", "peers"):
        print(", ".join(f"{name} {number}" for name, number in found[kind].items()))
    print()
    commit = report.commit(package)
    answer = functools.partial(runner.run, package=package)
    for row, result in runner.measure(rows, rounds=rounds, quick=given.quick, answer=answer):
        found["rows"][row.name] = {**result, "date": found["date"], "commit": commit, "machine": machine["cpu"]}
        print(report.line(row.name, result), flush=True)
        if given.json:
            # After each row, so that a run that is stopped leaves what it has measured.
            machine["load_after"] = round(os.getloadavg()[0], 2)
            given.json.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\n{report.summary(found['rows'])}")


if __name__ == "__main__":
    main()
