"""A task module whose import, in a child, takes as long as the test wants."""

from __future__ import annotations

import os
from pathlib import Path

from tests.waiting import wait_until

if "IMPORT_BEGUN" in os.environ:
    Path(os.environ["IMPORT_BEGUN"]).touch()
    try:
        wait_until(Path(os.environ["IMPORT_MAY_END"]).exists, "the permission to continue")
    except TimeoutError:
        Path(os.environ["IMPORT_BEGUN"]).unlink()
        raise


def quick() -> None:
    """Nothing."""
