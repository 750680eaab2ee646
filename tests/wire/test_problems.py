"""The list of problems."""

from __future__ import annotations

import re

from taskflow_otel.wire import problems
from taskflow_otel.wire.problems import PROBLEMS, USUAL, Problem


def test_every_problem_is_listed_under_its_name_in_the_order_of_the_statuses() -> None:
    defined = {value.name: value for value in vars(problems).values() if isinstance(value, Problem)}
    assert defined == PROBLEMS
    assert [problem.status for problem in PROBLEMS.values()] == sorted(problem.status for problem in PROBLEMS.values())


def test_the_name_of_a_problem_is_a_fragment_and_its_texts_are_sentences() -> None:
    for name, problem in PROBLEMS.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
        assert problem.meaning.endswith(".")
        assert problem.advice.endswith(".")
        assert not problem.title.endswith(".")


def test_every_status_of_a_problem_has_a_usual_one() -> None:
    assert USUAL.keys() == {problem.status for problem in PROBLEMS.values()}
    assert all(problem.status == status for status, problem in USUAL.items())
