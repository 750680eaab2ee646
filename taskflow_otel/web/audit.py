"""Who did what: one log record for each action taken through the API."""

from __future__ import annotations

import logging

from fastapi import Request

from taskflow_otel.web.auth import Actor

_log = logging.getLogger("taskflow_otel.audit")


class AuditLog:
    """Writes actions to the stdlib logger `taskflow_otel.audit`, with the actor in the record's attributes."""

    def record(self, request: Request, actor: Actor | None, action: str, target: str, outcome: str = "done") -> None:
        """Log one action and its result. Names come from outside, so they are quoted."""
        name = actor.name if actor and actor.name else "anonymous"
        client = request.client.host if request.client else "unknown"
        _log.info(
            "%r %s %r: %s",
            name,
            action,
            target,
            outcome,
            extra={"actor": name, "action": action, "target": target, "outcome": outcome, "client": client},
        )
