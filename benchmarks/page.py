"""The table of `docs/performance.md`, made from committed figures: `python -m benchmarks.page`.

`benchmarks/figures/after.json` is what `make bench` wrote for the present state, `before.json` what it wrote with
`--package` for an older state of the library. Without an argument the page is written anew; `--check` only compares.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.suite.kinds import OURS, Row
from benchmarks.suite.report import digits
from benchmarks.suite.rows import ROWS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
FIGURES = Path(__file__).parent / "figures"
_BEGIN, _END = "<!-- figures -->", "<!-- end of figures -->"
_HEAD = (
    "| row | what | before | now | reference | ratio before | ratio now | budget |\n|---|---|---|---|---|---|---|---|"
)


def load(name: str) -> dict[str, Any]:
    """The figures of a run that was kept."""
    found: dict[str, Any] = json.loads((FIGURES / f"{name}.json").read_text())
    return found


def table(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """One line for each row of the suite, and a line that says where the figures come from."""
    machine, versions = after["machine"], after["versions"]
    elsewhere = [name for name, found in after["rows"].items() if found["machine"] != machine["cpu"]]
    others = {after["rows"][name]["machine"] for name in elsewhere}
    source = (
        f"`{after['command']}` on {_each(after, 'date')}, commit {_each(after, 'commit')}; before: commit "
        f"{_each(before, 'commit')}. {machine['cpu']}, {machine['cores']} cores, {machine['system']}, "
        f"{versions['python']}. Medians, with the quartiles of each ratio."
    )
    if elsewhere:
        source += (
            f" On another machine of as many cores ({', '.join(sorted(others))}): "
            f"{', '.join(f'`{name}`' for name in elsewhere)}."
        )
    return "\n".join(
        [
            source,
            "",
            _HEAD,
            *(_line(row, before["rows"].get(row.name), after["rows"].get(row.name)) for row in ROWS),
            "",
            "Peers: " + ", ".join(f"{name} {number}" for name, number in after["peers"].items()) + ".",
        ]
    )


def _each(figures: Mapping[str, Any], what: str) -> str:
    """The different values of the rows."""
    return " and ".join(sorted({row[what] for row in figures["rows"].values()}))


def _line(row: Row, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    verdict = "" if row.budget is None else f"{row.budget}, {_verdict(after)}"
    cells = [
        f"`{row.name}`", row.what, _ours(row, before), _ours(row, after), _references(row, after),
        _ratio(before, quartiles=False), _ratio(after, quartiles=True), verdict,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _ours(row: Row, found: Mapping[str, Any] | None) -> str:
    if found is None or OURS not in found["cases"]:
        return "–"
    return f"{digits(found['cases'][OURS]['median'])} {row.unit}".rstrip()


def _references(row: Row, found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    said = [f"{label} {digits(one['median'])}" for label, one in found["cases"].items() if label != OURS]
    said += [f"{label} not measured" for label in found["missing"] if label != OURS]
    return ", ".join(said)


def _ratio(found: Mapping[str, Any] | None, *, quartiles: bool) -> str:
    if found is None or found["ratio"] is None:
        return ""
    ratio = found["ratio"]
    return digits(ratio["median"]) + (f" ({digits(ratio['q1'])} to {digits(ratio['q3'])})" if quartiles else "")


def _verdict(found: Mapping[str, Any] | None) -> str:
    if found is None or found["met"] is None:
        return "not measured"
    return "met" if found["met"] else "**not met**"


def not_met(after: Mapping[str, Any]) -> list[str]:
    """The rows whose budget was missed."""
    return [name for name, found in after["rows"].items() if found["met"] is False]


def written(page: str) -> str:
    """The page with the table as the figures have it; raises `ValueError` without the marks."""
    head, _, rest = page.partition(_BEGIN)
    _, mark, tail = rest.partition(_END)
    if not mark:
        raise ValueError(f"the page has no place for the table: {_BEGIN} and {_END}")
    return f"{head}{_BEGIN}\n\n{table(load('before'), load('after'))}\n\n{_END}{tail}"


def main() -> None:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    page = PAGE.read_text()
    fresh = written(page)
    if given.check:
        sys.exit(None if page == fresh else f"{PAGE} does not agree with the figures: python -m benchmarks.page")
    PAGE.write_text(fresh)


if __name__ == "__main__":
    main()
