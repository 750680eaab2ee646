"""The metrics that the semantic conventions require of a messaging library, beside those of the table of signals."""

from __future__ import annotations

from taskflow_otel.exporters import keys, signals
from taskflow_otel.exporters.specs import MetricSpec, MetricType
from taskflow_otel.model.status import Transition

_MESSAGING_LABELS = (keys.MESSAGING_SYSTEM, keys.MESSAGING_OPERATION_NAME, keys.MESSAGING_DESTINATION_NAME)
SENT_MESSAGES = MetricSpec(
    "messaging.client.sent.messages",
    MetricType.COUNTER,
    "Tasks accepted.",
    _MESSAGING_LABELS,
    "{message}",
    on=frozenset({Transition.ENQUEUED}),
)
CONSUMED_MESSAGES = MetricSpec(
    "messaging.client.consumed.messages",
    MetricType.COUNTER,
    "Attempts started.",
    _MESSAGING_LABELS,
    "{message}",
    on=frozenset({Transition.STARTED}),
)
PROCESS_DURATION = MetricSpec(
    "messaging.process.duration",
    MetricType.HISTOGRAM,
    "Run time of one attempt.",
    (*_MESSAGING_LABELS, keys.ERROR_TYPE),
    "s",
    signals.JOB_BUCKETS,
    on=signals.ATTEMPT_ENDS,
)
MESSAGING_METRICS = (SENT_MESSAGES, CONSUMED_MESSAGES, PROCESS_DURATION)
"""The metrics that the semantic conventions require of a messaging library; sent only to OpenTelemetry."""
