"""The page about the problems of the API, which the `type` of a problem leads to."""

from __future__ import annotations

import html

from fastapi import APIRouter, Response

from taskflow_otel.web.headers import PAGE_HEADERS
from taskflow_otel.wire.problems import PROBLEMS, Problem


def add_problem_routes(router: APIRouter) -> None:
    """The page. It needs no login: every installation has the same one, and it explains how to log in."""
    page = _page()

    @router.get("/problems", include_in_schema=False)
    async def problems() -> Response:
        return Response(page, headers=PAGE_HEADERS, media_type="text/html; charset=utf-8")


def _page() -> str:
    sections = "\n".join(map(_section, PROBLEMS.values()))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Problems</title>\n'
        '<meta name="viewport" content="width=device-width">\n<link rel="stylesheet" href="static/app.css">\n</head>\n'
        f"<body>\n<main>\n<h1>Problems</h1>\n{sections}\n</main>\n</body>\n</html>\n"
    )


def _section(problem: Problem) -> str:
    sentences = (f"{problem.status}: {problem.title}. {problem.meaning}", problem.advice)
    texts = "".join(f"<p>{_code(html.escape(sentence, quote=False))}</p>\n" for sentence in sentences)
    return f'<section id="{problem.name}">\n<h2>{problem.name}</h2>\n{texts}</section>'


def _code(text: str) -> str:
    """Text between backticks as code."""
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(text.split("`")))
