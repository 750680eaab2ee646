"""One exception for each problem."""

from __future__ import annotations

import pytest

from taskflow_otel.client.errors import ProblemError, problem_error
from taskflow_otel.wire.bodies import ErrorOut
from taskflow_otel.wire.problems import PROBLEMS, Problem


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_each_problem_has_an_exception_of_its_own_with_all_that_the_answer_says(problem: Problem) -> None:
    body = ErrorOut(
        type=f"/prefix/tasks/problems#{problem.name}",
        title=problem.title,
        status=problem.status,
        detail="it is wrong; do that",
        fields=["limit"],
    )
    error = problem_error(body, 2.5)
    assert (type(error).problem, type(error).__mro__.count(ProblemError)) == (problem, 1)
    assert type(error) is not ProblemError
    assert (error.type, error.title, error.status, error.detail) == (body.type, body.title, body.status, body.detail)
    assert (error.fields, error.retry_after) == (("limit",), 2.5)
    assert str(error) == f"it is wrong; do that ({problem.status})"


@pytest.mark.parametrize("type_", ["about:blank", "/tasks/problems#of-a-later-version"])
def test_a_problem_that_this_version_does_not_know_is_a_problem_nevertheless(type_: str) -> None:
    error = problem_error(ErrorOut(type=type_, title="Payment Required", status=402, detail="pay"))
    assert type(error) is ProblemError
    assert error.status == 402
