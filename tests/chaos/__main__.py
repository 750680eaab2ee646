"""`python -m tests.chaos --backend sqlite --kills 200`: a storm over each backend named, and a report of it."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tests.chaos.plan import BACKENDS, BROKERS, Plan
from tests.chaos.storm import run_storm


def main() -> int:
    """Run the storms; the exit status is 1 when a promise was not kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="default: every one, in turn")
    parser.add_argument("--kills", type=int, default=200, help="kills after which the storm ends (default: 200)")
    parser.add_argument("--seconds", type=float, default=1800, help="or after this time (default: 1800)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults drawn and of the load (default: 0)")
    parser.add_argument("--members", type=int, default=2, help="server processes at once (default: 2)")
    parser.add_argument(
        "--workers",
        type=int,
        action="append",
        help="worker processes beside the servers, which then only enqueue; more than one number: one storm for each "
        "(default: 0, then 2)",
    )
    parser.add_argument(
        "--celery",
        choices=BROKERS,
        help="the workers are Celery's, and this carries their messages (then --workers is 2 by default)",
    )
    parser.add_argument("--twice", action="store_true", help="each message to Celery is sent twice")
    parser.add_argument("--keep", type=Path, help="directory to leave databases, logs and notes in")
    parser.add_argument("--report", type=Path, help="file to write the JSON report to")
    options = parser.parse_args()
    reports = []
    arrangements = options.workers or ((0, 2) if options.celery is None else (2,))
    for backend, workers in itertools.product(options.backend or BACKENDS, arrangements):
        directory = None
        if options.keep is not None:
            directory = options.keep / f"{backend}-{workers}"
            directory.mkdir(parents=True)
        plan = Plan(
            backend,
            options.kills,
            options.seconds,
            options.seed,
            options.members,
            workers,
            options.celery,
            options.twice,
        )
        report = run_storm(plan, directory)
        sys.stdout.write(f"{report}\n")
        sys.stdout.flush()
        reports.append(report)
    if options.report is not None:
        options.report.write_text(json.dumps([asdict(report) for report in reports], indent=2) + "\n")
    return int(any(report.violations or report.differences for report in reports))


if __name__ == "__main__":
    sys.exit(main())
