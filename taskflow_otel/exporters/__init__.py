"""The receivers of task events.

Exporters: `stream`, `otel.tracing`, `otel.logs`, `otel.metrics`, `prometheus.exporter`. Observers: `lines.file`,
`lines.stdout`, `memory`. The other modules serve them: `signals` is the table of all names, `signals_doc` makes a page
of it, `telemetry` holds the user's settings.
"""
