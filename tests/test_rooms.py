"""The rooms of the package: the folders on disk, the layers that import-linter holds, and the table on the page."""

from __future__ import annotations

import grimp
import pytest

from tests.rooms import PACKAGE, TABLES, layers, on_page, rooms


@pytest.mark.parametrize("mark", TABLES)
def test_the_documentation_shows_the_rooms_as_they_are(mark: str) -> None:
    # Write the tables anew: python -m tests.rooms
    assert on_page(mark) == TABLES[mark]()


def test_every_room_says_what_it_does_and_holds_modules() -> None:
    assert [room.name for room in rooms() if not room.purpose] == []
    assert [room.name for room in rooms() if not room.modules] == []


def test_the_layers_name_every_room_and_nothing_else() -> None:
    on_disk = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} | {
        path.stem for path in PACKAGE.glob("*.py")
    }
    named = [name for layer in layers("taskflow_otel") for name in layer]
    assert sorted(named) == sorted(on_disk - {"__init__"})


@pytest.mark.parametrize("room", ["backends", "exporters"])
def test_what_is_new_among_siblings_knows_none_of_them(room: str) -> None:
    container = f"taskflow_otel.{room}"
    *upper, _ = ordered = layers(container)
    # What all may import stands below the layer of siblings.
    siblings = max(upper, key=len)
    shared = {name for layer in ordered[ordered.index(siblings) + 1 :] for name in layer}
    graph = grimp.build_graph("taskflow_otel", cache_dir=None)
    new = {child.rpartition(".")[2] for child in graph.find_children(container)} - {
        one for layer in ordered for one in layer
    }
    found = {
        (name, imported)
        for name in new
        for module in {f"{container}.{name}", *graph.find_descendants(f"{container}.{name}")}
        for imported in graph.find_modules_directly_imported_by(module)
        if imported.startswith(f"{container}.") and imported.split(".")[2] not in {*shared, name}
    }
    assert found == set()
