"""Exports in files, as a collector writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.reconcile.otlp_file import Exported, read_exports


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"resourceSpans": [{"scopeSpans": [{"scope": {"name": "taskflow_otel"}, "spans": [{}]}]}]}']
)
def test_a_file_that_is_no_export_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "export.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(ConfigurationError, match=r"export\.jsonl"):
        read_exports([path])


def test_spans_of_other_libraries_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    path.write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"scope": {"name": "other"}, "spans": [{}]}]}]}))
    assert read_exports([path]) == Exported()
