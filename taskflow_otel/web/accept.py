"""The little of content negotiation (RFC 9110, section 12.5.1) that the metrics page needs."""

from __future__ import annotations

_TEXT = frozenset({"application/openmetrics-text", "text/plain", "text/*"})


def prefers_json(accept: str) -> bool:
    """Whether JSON is named in an `Accept` header, and no text format is preferred to it."""
    json_q, text_q = 0.0, 0.0
    for part in accept.split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = _quality(parameters)
        if media == "application/json":
            json_q = max(json_q, quality)
        elif media in _TEXT:
            text_q = max(text_q, quality)
    return json_q > 0 and json_q >= text_q


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return min(1.0, max(0.0, float(parameter[2:])))
            except ValueError:
                return 0.0
    return 1.0
