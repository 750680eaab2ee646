"""OpenTelemetry: spans, log records, metrics, and the SDK in one call."""
