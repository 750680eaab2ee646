"""The signal table in itself, and the page made from it; `test_contract.py` compares it with what comes out."""

from __future__ import annotations

from taskflow_otel.exporters import signals
from taskflow_otel.model.status import Transition


def test_every_transition_has_its_log_event() -> None:
    assert set(signals.LOGS) == set(Transition)


def test_metric_names_say_their_unit_and_kind() -> None:
    for spec in signals.METRICS:
        assert spec.name.startswith("taskflow_")
        assert spec.name.endswith("_total") == (spec.type == "counter")
        assert spec.name.removesuffix("_total").endswith("_seconds") == (spec.unit == "seconds")
        assert bool(spec.buckets) == (spec.type == "histogram")
    assert len(signals.METRICS_BY_NAME) == len(signals.METRICS)
