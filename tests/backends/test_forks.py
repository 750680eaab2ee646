"""What a forked child has inherited is the parent's."""

from __future__ import annotations

import os

import pytest

from taskflow_otel.backends.forks import Forks


def test_connections_are_inherited_once_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    forks = Forks()
    assert not forks.crossed("connection")
    child = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: child)
    assert forks.crossed("connection")
    assert not forks.crossed("its own")
