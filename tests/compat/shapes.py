"""How a test says that another package has changed its shape."""

from __future__ import annotations

from importlib.metadata import version


class Shape:
    """What the library relies on in a package; `seen_in` is the last version that it was read in."""

    def __init__(self, package: str, seen_in: str) -> None:
        self._package = package
        self._seen_in = seen_in

    def holds(self, condition: bool, look_at: str) -> None:
        """Fail, and say what to look at, unless the condition holds."""
        assert condition, (
            f"{self._package} {version(self._package)} differs from {self._seen_in}, in which this was seen: {look_at}"
        )
