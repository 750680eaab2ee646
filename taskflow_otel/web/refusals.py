"""Unknown parameters and bodies, which routes that change something refuse."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from fastapi import HTTPException, Request

from taskflow_otel.wire.problems import INVALID_INPUT, Problem

READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods of routes that change nothing."""


class Refusal(HTTPException):  # an answer
    """The answer to a request that is refused: which problem it is, a sentence, and the fields that are wrong."""

    def __init__(
        self,
        problem: Problem,
        sentence: str,
        headers: Mapping[str, str] | None = None,
        *,
        fields: Sequence[str] = (),
    ) -> None:
        super().__init__(problem.status, detail=sentence, headers=headers)
        self.problem = problem
        self.fields = fields


class InvalidInput(Refusal):
    """The answer 422 to a parameter that cannot be understood."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(INVALID_INPUT, sentence, fields=[field])


def is_storable(text: str) -> bool:
    """Whether every database can store a text: it has no NUL character and no lone surrogate."""
    try:
        return b"\x00" not in text.encode()
    except UnicodeEncodeError:
        return False


def refuse_unknown_parameters(request: Request, known: Collection[str]) -> None:
    """Answer 422 to a query parameter that the route does not know: a misspelled filter must not select everything."""
    for name in request.query_params:
        if name not in known:
            raise InvalidInput(name, f"{name!r} is not a parameter of this route; {_advice(name, known)}")


def refuse_arguments(request: Request, known: Collection[str]) -> None:
    """Answer 422 to the filter by arguments on a route that does not have it, reading ones too: what they answer
    must not be taken for what the filter selects."""
    if "args" in request.query_params and "args" not in known:
        raise InvalidInput(
            "args",
            "only the list can be filtered by arguments (GET of the tasks): no index contains them, so nobody knows "
            "all tasks that match. Search there, and give the ids of the tasks that were found (task_ids) to "
            "an action that takes them.",
        )


def refuse_unclear_parameters(request: Request, known: Collection[str]) -> None:
    """Answer 422 to a parameter of the route that is empty, for example from an unset shell variable, or given twice.

    An empty filter must not select everything, and of two values the route would read only one.
    """
    counts = Counter(name for name, _ in request.query_params.multi_items() if name in known)
    for name, times in counts.items():
        if times > 1:
            raise InvalidInput(name, f"{name} is given {times} times; give it once")
        if not request.query_params[name].strip():
            raise InvalidInput(name, f"{name} is empty; leave it out, or give it a value")


async def refuse_body(request: Request) -> None:
    """Answer 422 to a body on a route that takes none; `{}` counts as no body."""
    body = await request.body()
    try:
        says_something = bool(body.strip()) and json.loads(body) != {}
    except (ValueError, RecursionError):
        says_something = True
    if says_something:
        raise HTTPException(
            422, detail="this route takes no request body; put its parameters into the query string (?since=6h)"
        )


def _advice(name: str, known: Collection[str]) -> str:
    if not known:
        return "it takes none"
    close = difflib.get_close_matches(name[:100], known, 1)
    return f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(sorted(known))}"
