"""The page about telemetry is generated from the table of signals."""

from __future__ import annotations

from pathlib import Path

from taskflow_otel.exporters import signals_doc


def test_the_page_about_telemetry_is_generated_from_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "telemetry.md"
    assert page.read_text("utf-8") == signals_doc.render(), (
        "run: python -m taskflow_otel.exporters.signals_doc > docs/telemetry.md"
    )
