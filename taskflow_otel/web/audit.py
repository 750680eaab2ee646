"""Who did what: how the routes fill the audit.

A route that changes something is audited by its class, `TaskflowRoute`, whatever its answer is. It adds what only it
knows with `note`. What is not such a route, a login for example, writes entries of its own with `record`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Query, Request
from msgspec.structs import replace

from taskflow_otel.errors import NotStartedError
from taskflow_otel.model.audit import AuditEntry
from taskflow_otel.model.ids import new_task_id
from taskflow_otel.model.vocabulary import AuditOutcome
from taskflow_otel.runtime.clock import SYSTEM_CLOCK, Clock
from taskflow_otel.web.auth import Actor
from taskflow_otel.web.entrance import actor_of
from taskflow_otel.web.ports import AuditTrail

_log = logging.getLogger("taskflow_otel")

_NOTED = "taskflow_otel.audit"
_REASON = "reason"


def _given_reason(
    reason: Annotated[
        str | None, Query(max_length=1_000, description="Why, for the audit; the action does not depend on it.")
    ] = None,
) -> str | None:
    return reason


REASON = Depends(_given_reason)
"""The parameter `reason`, a dependency of every route that changes something."""


def reason_of(request: Request) -> str | None:
    """Why the user of a request wants it; `None` if that is not said."""
    return request.query_params.get(_REASON) or None


@dataclass(slots=True)
class _Noted:
    """What the parts of one request say about it."""

    drafts: list[AuditEntry] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    nothing_changed: bool = False


class AuditLog:
    """Collects the entries of a request. They are stored before its answer leaves, except those about strangers."""

    def __init__(self, trail: AuditTrail, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._trail = trail
        self._clock = clock

    def record(
        self,
        request: Request,
        actor: Actor | None,
        action: str,
        target: str = "",
        outcome: AuditOutcome = AuditOutcome.DONE,
        *,
        status: int = 200,
        detail: str | None = None,
    ) -> None:
        """Add an entry of its own to the request, in place of the one that its route would get.

        `actor`: the user, if one is known. `target`: the name that the action is about, such as the user name that
        someone tried. `status`: the status of the answer. `detail`: what happened, or why it was refused.
        """
        _noted(request).drafts.append(
            self._entry(request, actor, action, outcome, status, {"target": target, "detail": detail or ""})
        )

    @staticmethod
    def note(request: Request, **facts: str) -> None:
        """Add facts to the entry of the request's route: `target`, `detail`, `operation_id`."""
        _noted(request).facts.update(facts)

    @staticmethod
    def nothing_changed(request: Request) -> None:
        """The request changed nothing, so its route gets no entry unless it is refused."""
        _noted(request).nothing_changed = True

    async def settle(self, request: Request, action: str | None, status: int, detail: str) -> None:
        """Store the entries of a request, when its answer is known to have this status.

        `action`: the name of a route that changes something; `None` for one that only reads. `detail`: why the request
        was refused, or empty.
        """
        noted, outcome = _noted(request), _outcome(status)
        entries, noted.drafts = noted.drafts, []
        done = outcome is AuditOutcome.DONE
        # The throttle records one refusal of each delay, so that a flood of requests is not a flood of entries.
        delayed = status == HTTPStatus.TOO_MANY_REQUESTS
        if action is not None and not entries and not delayed and not (done and noted.nothing_changed):
            path = request.path_params
            facts = {"task_id": str(path.get("task_id", "")), "target": str(path.get("name", "")), **noted.facts}
            if detail:
                facts["detail"] = detail
            entries = [self._entry(request, actor_of(request), action.replace("_", "-"), outcome, status, facts)]
        for entry in entries:
            # A stranger must not be able to let many requests wait for the backend.
            wait = entry.method is not None or entry.outcome == AuditOutcome.DONE
            try:
                await self._trail.record(entry, wait=wait)
            except NotStartedError as exc:
                _log.error("the audit lost an entry (%s by %s): %s", entry.action, entry.actor or "a stranger", exc)

    def _entry(
        self,
        request: Request,
        actor: Actor | None,
        action: str,
        outcome: AuditOutcome,
        status: int,
        facts: dict[str, str],
    ) -> AuditEntry:
        route = request.scope.get("route")
        entry = AuditEntry(
            entry_id=new_task_id(),
            at=self._clock.now(),
            actor=actor.name if actor else None,
            method=actor.via if actor else None,
            client=request.client.host if request.client else None,
            action=action,
            route=f"{request.method} {getattr(route, 'path', request.url.path)}",
            outcome=outcome.value,
            status=status,
            reason=reason_of(request),
        )
        return replace(entry, **{name: fact for name, fact in facts.items() if fact})


def _noted(request: Request) -> _Noted:
    noted: _Noted = request.scope.setdefault(_NOTED, _Noted())
    return noted


def _outcome(status: int) -> AuditOutcome:
    if status >= 500:
        return AuditOutcome.FAILED
    return AuditOutcome.REFUSED if status >= 400 else AuditOutcome.DONE
