"""Parameters that FastAPI would fill in are found wherever they stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import Body, Depends, Header, Query, Security

from taskflow_otel.engine.markers import first_marker


def get_session() -> None: ...


def by_default(order: int, session: object = Depends(get_session)) -> None: ...
def by_annotation(page: Annotated[int, Query()] = 1) -> None: ...
def by_text(page: Annotated[int, "help", Body()]) -> None: ...
def by_security(user: object = Security(get_session)) -> None: ...
def the_first(a: Annotated[str, Header()], b: int = Query(1)) -> None: ...
def in_keywords(*, token: str = Header()) -> None: ...
def plain(order: int, note: Annotated[str, "a note"] = "Depends") -> None: ...
def unresolved(page: Annotated[Missing, Query()]) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("func", "found"),
    [
        (by_default, ("session", "Depends")),
        (by_annotation, ("page", "Query")),
        (by_text, ("page", "Body")),
        (by_security, ("user", "Security")),
        (the_first, ("a", "Header")),
        (in_keywords, ("token", "Header")),
        (plain, None),
        (unresolved, None),
        (lambda: None, None),
        (print, None),
        (dict.get, None),
        (type, None),
    ],
)
def test_the_first_marker_is_named(func: Callable[..., Any], found: tuple[str, str] | None) -> None:
    assert first_marker(func) == found
