"""The page about moving from fastapi-taskflow, from the table of differences.

python -m tests.drop_in.page        # write docs/coming-from/fastapi-taskflow.md anew
"""

from __future__ import annotations

from pathlib import Path

from tests.drop_in.differences import TOPICS, Difference
from tests.drop_in.surface import items, listed

PAGE = Path(__file__).parents[2] / "docs" / "coming-from" / "fastapi-taskflow.md"


def page() -> str:
    """The page, as Markdown."""
    rows = [row for topic in TOPICS for row in topic.rows]
    found = items()
    same = sum(not any(row.covers(item.text) for row in rows) for item in found)
    parts = [_HEAD.format(version=listed()["version"], total=len(found), same=same)]
    for topic in TOPICS:
        parts.append(f"## {topic.title}\n\n| there | here | why |\n|---|---|---|")
        parts[-1] += "".join(f"\n{_line(row)}" for row in topic.rows)
    return "\n\n".join([*parts, _FOOT]) + "\n"


def _line(row: Difference) -> str:
    there = ", ".join(f"`{item}`" for item in row.items)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in (there, row.here, row.why)) + " |"


_HEAD = """\
# Coming from fastapi-taskflow

For most applications the move is one line:

```python
from taskflow_otel import TaskAdmin, TaskManager, task_log  # before: from fastapi_taskflow import ...
```

All names are at the top level, the backends too: `from fastapi_taskflow.models import QueueConfig` becomes
`from taskflow_otel import QueueConfig`.

A script listed the public names, parameters, fields, endpoints and answers of fastapi-taskflow {version}:
{total} items. {same} of them are the same here. The others are in the tables below, each with the reason; `*` stands
for any text. A test compares the list with the code and with these tables, and nine applications that are written for
fastapi-taskflow run unchanged on this library (`tests/drop_in`).

Tasks that fastapi-taskflow has stored are not taken over. Let the old process finish them, and start with a new file
or a new prefix."""

_FOOT = """\
## What you gain

Spans, log records and Prometheus metrics of each transition ([telemetry](../telemetry.md)); commits before the
response, takeover by one other instance, and one outcome ([guarantees](../guarantees.md)); timeouts, jitter,
`retry_on`; limits, pauses and cancellation that reach the instance that runs the task."""


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
