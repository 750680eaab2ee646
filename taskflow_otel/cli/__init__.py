"""The command `taskflow-otel`."""
