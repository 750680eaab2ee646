"""Writes the Grafana dashboards: `python -m dashboards.generate`."""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import fleet, internals, one_task, overview
from dashboards.parts import build, releases

DIRECTORY = Path(__file__).parent / "grafana"
PAGES = (overview.PAGE, one_task.PAGE, fleet.PAGE, internals.PAGE)


def render() -> dict[str, str]:
    """The text of every dashboard by its file name."""
    texts = {}
    for page in PAGES:
        board = json.loads(json.dumps(build(page), cls=JSONEncoder))
        # The builder knows no title of an annotation.
        board["annotations"] = {"list": [releases()]}
        texts[f"{page.uid}.json"] = json.dumps(board, indent=2, sort_keys=True) + "\n"
    return texts


def main() -> None:
    """Write the dashboards, and remove what is no longer one."""
    texts = render()
    for path in DIRECTORY.glob("*.json"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        (DIRECTORY / name).write_text(text)


if __name__ == "__main__":
    main()
