"""Counts of objectives: there from the declaration on, and zero again in a forked child."""

from __future__ import annotations

from taskflow_otel.exporters import signals
from taskflow_otel.exporters.prometheus.objectives import ObjectiveCounts
from taskflow_otel.exporters.prometheus.values import Snapshot


def shown(counts: ObjectiveCounts) -> dict[tuple[str, ...], object]:
    found: Snapshot = {}
    counts.read(found)
    return dict(found[signals.SLO_EVENTS.name])


def test_a_type_has_both_results_from_its_declaration_on() -> None:
    counts = ObjectiveCounts()
    assert shown(counts) == {}
    counts.declare("send")
    assert shown(counts) == {("send", "good"): 0, ("send", "bad"): 0}


def test_each_event_counts_once_and_is_forgotten_with_the_process() -> None:
    counts = ObjectiveCounts()
    counts.count("send", "bad")
    counts.count("send", "good")
    counts.declare("send")
    counts.count("send", "good")
    assert shown(counts) == {("send", "good"): 2, ("send", "bad"): 1}
    counts.forget()
    assert shown(counts) == {("send", "good"): 0, ("send", "bad"): 0}
