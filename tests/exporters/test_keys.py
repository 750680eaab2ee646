"""The attributes, as the table of signals uses them."""

from __future__ import annotations

from taskflow_otel.exporters import keys, signals

DECLARED = {attribute.name for attribute in keys.ATTRIBUTES}


def test_every_attribute_in_use_is_explained() -> None:
    used = {name for spec in signals.SPANS for name in (*spec.at_start, *spec.at_end)}
    used |= {
        *signals.LIFECYCLE_LOG_ATTRIBUTES,
        *signals.EXCEPTION_LOG_ATTRIBUTES,
        *signals.TASK_LOG_ATTRIBUTES,
        *signals.AUDIT_LOG_ATTRIBUTES,
        keys.LINK,
        keys.TAG_PREFIX + "*",
        keys.LOG_PREFIX + "*",
    }
    assert used == DECLARED


def test_messaging_names_are_those_of_the_semantic_conventions() -> None:
    from opentelemetry.semconv._incubating.attributes import messaging_attributes
    from opentelemetry.semconv.schemas import Schemas

    known = {value for name, value in vars(messaging_attributes).items() if name.startswith("MESSAGING_")}
    assert {name for name in DECLARED if name.startswith("messaging.")} <= known
    assert Schemas.V1_44_0.value == signals.SCHEMA_URL
