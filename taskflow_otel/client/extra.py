"""httpx, or the error that names the extra which installs it. All of the client imports httpx from here."""

from __future__ import annotations

from taskflow_otel.errors import MissingExtraError

try:
    import httpx
except ImportError as _error:
    raise MissingExtraError("taskflow_otel.client", "client") from _error

__all__ = ["httpx"]
