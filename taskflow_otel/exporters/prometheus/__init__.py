"""Prometheus: the values, the exporter that counts them, and their text formats."""
