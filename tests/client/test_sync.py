"""The synchronous client: it is the asynchronous one without `await`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.client.twin import TWINS, synchronous


@pytest.mark.parametrize("module", TWINS, ids=lambda module: module.stem)
def test_both_clients_are_one(module: Path) -> None:
    assert TWINS[module].read_text("utf-8") == synchronous(module), "run: python -m tests.client.twin"
