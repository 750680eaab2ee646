"""`Telemetry` refuses what cannot work where it is made."""

from __future__ import annotations

import pytest

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.exporters.telemetry import Telemetry


@pytest.mark.parametrize(
    "buckets",
    [{"nonsense": (1,)}, *({"taskflow_task_run_duration_seconds": b} for b in ((), (2, 1), (0, 1), (1, float("inf"))))],
    ids=["unknown histogram", "none", "decreasing", "zero", "infinite"],
)
def test_unusable_buckets_are_refused(buckets: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ConfigurationError, match="buckets"):
        Telemetry(buckets=buckets)


@pytest.mark.parametrize(
    "options",
    [
        {"propagation": "no"},
        {"max_label_values": 0},
        {"registry": object()},
        {"tracer_provider": 1},
        {"metrics_target": " "},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_wrong_telemetry_option_is_named(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Telemetry(**options)  # type: ignore[arg-type]
