"""Units that leave the names as they are where a collector passes metrics on to Prometheus."""

from __future__ import annotations

import pytest

from taskflow_otel.exporters import signals
from taskflow_otel.exporters.otel.units import otel_unit
from taskflow_otel.exporters.specs import MetricSpec, MetricType


@pytest.mark.parametrize("spec", signals.METRICS, ids=lambda spec: spec.name)
def test_a_unit_gives_the_name_back_and_is_no_ratio(spec: MetricSpec) -> None:
    unit = otel_unit(spec)
    # By https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics: `s` becomes `_seconds`, what
    # is in braces nothing, and `1` of a gauge `_ratio`.
    suffix = "_seconds" if unit == "s" else ""
    assert unit == "s" or (unit[:1], unit[-1:]) in {("{", "}"), ("", "")}
    total = "_total" if spec.type is MetricType.COUNTER else ""
    assert signals.otel_name(spec).replace(".", "_", 1) + suffix + total == spec.name


def test_what_is_counted_is_named() -> None:
    assert otel_unit(signals.TASKS_FINISHED) == "{task}"
    assert otel_unit(signals.EXECUTOR_SLOTS) == "{slot}"
