"""The page `docs/problems.md`, generated: `python -m taskflow_otel.wire.problems_doc > docs/problems.md`."""

from __future__ import annotations

import sys

from taskflow_otel.wire.problems import PROBLEM_TYPE, PROBLEMS, Problem

_INTRODUCTION = f"""\
# Problems

The API answers every error with a body of the type `{PROBLEM_TYPE}` (RFC 9457). Its fields:

* `type`: which problem it is. It is an address under the path of the administration, such as
  `/tasks/problems#task-not-found`, which shows this list. The part after `#` is the same everywhere.
* `title`: the problem in a few words, always the same for one type. `status`: the status of the answer.
* `detail`: what is wrong with this request, and what to do.
* `fields`: the parameters and fields of the body that are wrong.

An answer that the application's own authentication makes with another status has the type `about:blank`.
The client raises one exception for each problem (`taskflow_otel.client`).

This page is generated from `taskflow_otel/wire/problems.py`: change that file.
"""


def render() -> str:
    """The page."""
    return "\n".join([_INTRODUCTION, *map(_section, PROBLEMS.values())])


def _section(problem: Problem) -> str:
    return f"## {problem.name}\n\n{problem.status}: {problem.title}. {problem.meaning}\n\n{problem.advice}\n"


if __name__ == "__main__":
    sys.stdout.write(render())
