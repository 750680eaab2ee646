"""The signal table in itself, and the page made from it; `test_contract.py` compares it with what comes out."""

from __future__ import annotations

from taskflow_otel.exporters import signals
from taskflow_otel.model.status import Transition

DECLARED = {attribute.name for attribute in signals.ATTRIBUTES}


def test_every_transition_has_its_log_event() -> None:
    assert set(signals.LOGS) == set(Transition)


def test_every_attribute_in_use_is_explained() -> None:
    used = {name for spec in signals.SPANS for name in (*spec.at_start, *spec.at_end)}
    used |= {
        *signals.LIFECYCLE_LOG_ATTRIBUTES,
        *signals.EXCEPTION_LOG_ATTRIBUTES,
        *signals.TASK_LOG_ATTRIBUTES,
        *signals.AUDIT_LOG_ATTRIBUTES,
        signals.LINK,
        signals.TAG_PREFIX + "*",
        signals.LOG_PREFIX + "*",
    }
    assert used == DECLARED


def test_messaging_names_are_those_of_the_semantic_conventions() -> None:
    from opentelemetry.semconv._incubating.attributes import messaging_attributes
    from opentelemetry.semconv.schemas import Schemas

    known = {value for name, value in vars(messaging_attributes).items() if name.startswith("MESSAGING_")}
    assert {name for name in DECLARED if name.startswith("messaging.")} <= known
    assert Schemas.V1_44_0.value == signals.SCHEMA_URL


def test_metric_names_say_their_unit_and_kind() -> None:
    for spec in signals.METRICS:
        assert spec.name.startswith("taskflow_")
        assert spec.name.endswith("_total") == (spec.type == "counter")
        assert spec.name.endswith("_seconds") == (spec.unit == "seconds")
        assert bool(spec.buckets) == (spec.type == "histogram")
    assert len(signals.METRICS_BY_NAME) == len(signals.METRICS)
