"""The answer to a request whose background tasks could not be stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from taskflow_otel.errors import BackendError


class Refusal(NamedTuple):
    """Status code, sentence and headers of the response."""

    status: int
    detail: str
    headers: Mapping[str, str]


_LATER = (
    "The request was understood, but its background tasks could not be stored, so none of them was started. "
    "Try again in a moment."
)
_NEVER = (
    "The request was understood, but its background tasks could not be stored, so none of them was started: the "
    "database refuses their data, and will refuse them again. Send less data, or other values."
)


def refusal_of(error: BackendError) -> Refusal:
    """What the client is told: to try again, or to send something else if the data are at fault.

    The backend's own message is not for clients: it names the database. The rejected task has the reason.
    """
    status, headers = error.http_answer
    return Refusal(status, _LATER if error.transient else _NEVER, headers)
