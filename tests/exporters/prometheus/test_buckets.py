"""The bounds of histograms: the defaults, or those of the application."""

from __future__ import annotations

import pytest

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.exporters import signals
from taskflow_otel.exporters.prometheus.buckets import resolve_buckets

NAME = signals.RUN_DURATION.name


def test_each_histogram_has_bounds_and_those_given_replace_the_defaults() -> None:
    found = resolve_buckets({NAME: [1, 2.5]})
    assert found.keys() == {spec.name for spec in signals.METRICS if spec.type == "histogram"}
    assert found[NAME] == (1.0, 2.5)
    assert found[signals.QUEUE_WAIT_TIME.name] == signals.QUEUE_WAIT_TIME.buckets


@pytest.mark.parametrize("bounds", [(), (0.0, 1.0), (2.0, 1.0), (1.0, 1.0), (1.0, float("inf"))], ids=str)
def test_wrong_bounds_are_refused(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ConfigurationError, match="strictly increasing"):
        resolve_buckets({NAME: bounds})


def test_an_unknown_histogram_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=NAME):
        resolve_buckets({"seconds": (1.0,)})
