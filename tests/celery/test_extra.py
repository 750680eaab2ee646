"""Without Celery, the error names the extra."""

from __future__ import annotations

import importlib
import sys

import pytest

from taskflow_otel.errors import MissingExtraError


def test_without_celery_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("taskflow_otel.celery")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "celery", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'taskflow-otel\[celery\]'"):
        importlib.import_module("taskflow_otel.celery")
