"""What mypy knows already, for the tests that run it."""

from __future__ import annotations

import shutil
from pathlib import Path

KNOWN = Path(__file__).parents[1] / ".mypy_cache"


def copied_cache(directory: Path) -> list[str]:
    """The option for a cache in this directory: a copy of the one of `make typecheck`, if it has run.

    Without it, mypy checks the package and its dependencies anew, which takes minutes; and two processes do not share a
    cache. Give mypy the options of `pyproject.toml`: what it knows with others is of no use to it.
    """
    place = directory / "mypy_cache"
    if KNOWN.is_dir():
        shutil.copytree(KNOWN, place, dirs_exist_ok=True)
    return ["--cache-dir", str(place)]
