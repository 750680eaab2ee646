"""Telemetry held against the ledger."""
