"""Compares the telemetry with the ledger."""
