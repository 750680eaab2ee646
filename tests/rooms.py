"""The table of rooms in the documentation, from the layers that import-linter holds, the folders and their docstrings.

python -m tests.rooms        # write the table in docs/architecture.md anew
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "taskflow_otel"
PAGE = ROOT / "docs" / "architecture.md"


class Room(NamedTuple):
    """A folder of the package, or a module beside the folders."""

    name: str
    layer: int
    purpose: str
    modules: int
    longest: str

    def row(self) -> str:
        """The row of the table."""
        return f"| {self.layer} | `{self.name}` | {self.purpose} | {self.modules} | {self.longest} |"


def contracts() -> list[dict[str, Any]]:
    """The contracts of import-linter."""
    found: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    return found


def layers(container: str) -> list[list[str]]:
    """The layers of a package, the highest first; each is the names of its members."""
    [contract] = [one for one in contracts() if one.get("containers") == [container]]
    return [re.findall(r"\w+", layer) for layer in contract["layers"]]


def rooms() -> Iterator[Room]:
    """All rooms, the highest layer first, each with the rooms in it below it."""
    ordered = layers("taskflow_otel")
    for number, names in enumerate(ordered):
        for name in names:
            folder = PACKAGE / name
            if not folder.is_dir():
                yield _room(folder.with_suffix(".py"), len(ordered) - number)
                continue
            for path in [folder, *sorted(one for one in folder.rglob("*") if (one / "__init__.py").exists())]:
                yield _room(path, len(ordered) - number)


def _room(path: Path, layer: int) -> Room:
    sources = [path] if path.is_file() else [one for one in path.glob("*.py") if one.name != "__init__.py"]
    first = path / "__init__.py" if path.is_dir() else path
    purpose = (ast.get_docstring(ast.parse(first.read_text())) or "").partition("\n")[0].rstrip(".")
    name = str(path.relative_to(PACKAGE).with_suffix("")) + ("/" if path.is_dir() else "")
    lengths = {one: len(one.read_text().splitlines()) for one in sources}
    if not lengths:
        return Room(name, layer, purpose, 0, "")
    longest = max(lengths, key=lambda one: lengths[one])
    # In steps, so that the table does not change with every line.
    return Room(name, layer, purpose, len(lengths), f"{-(-lengths[longest] // 50) * 50}")


def table() -> str:
    """The table as it is to stand on the page."""
    head = ["| layer | room | what it does | modules | longest (lines, up to) |", "|--:|---|---|--:|--:|"]
    return "\n".join([*head, *(room.row() for room in rooms())])


def engine() -> str:
    """The layers inside the engine as they are to stand on the page, the highest first."""
    rows = (", ".join(_shown(name) for name in names) for names in layers("taskflow_otel.engine"))
    return "\n".join(["| `engine/`, from the highest layer to the lowest |", "|---|", *(f"| {row} |" for row in rows)])


def _shown(name: str) -> str:
    return f"`{name}/`" if (PACKAGE / "engine" / name).is_dir() else f"`{name}`"


TABLES = {"<!-- rooms -->": table, "<!-- engine -->": engine}


def on_page(mark: str) -> str:
    """A table as the page shows it."""
    return PAGE.read_text().split(mark)[1].strip()


def main() -> None:
    """Write the tables on the page anew."""
    for mark, make in TABLES.items():
        before, _, after = PAGE.read_text().split(mark)
        PAGE.write_text(f"{before}{mark}\n\n{make()}\n\n{mark}{after}")


if __name__ == "__main__":
    main()
