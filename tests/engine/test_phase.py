"""The phases of a live task: the table, its one writer, and its picture in the documentation."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest

import taskflow_otel
from taskflow_otel.engine.phase import TABLE, Phase, Step, next_phase
from taskflow_otel.errors import IllegalTransitionError

PACKAGE = Path(taskflow_otel.__file__).parent
PAGE = PACKAGE.parent / "docs" / "architecture.md"


@pytest.mark.parametrize(("step", "phase"), list(itertools.product(Step, Phase)), ids=lambda one: one.name)
def test_a_step_leads_where_the_table_says_and_any_other_step_raises(step: Step, phase: Phase) -> None:
    if phase in TABLE[step]:
        assert next_phase(phase, step) is TABLE[step][phase]
    else:
        with pytest.raises(IllegalTransitionError, match=f"{phase.name} cannot take the step {step.name}"):
            next_phase(phase, step)


def test_every_phase_is_reached_and_every_phase_but_the_last_is_left() -> None:
    reached = {to for steps in TABLE.values() for to in steps.values()}
    left = {start for steps in TABLE.values() for start in steps}
    assert reached == set(Phase)
    assert left == set(Phase) - {Phase.GONE}


def test_nobody_writes_a_phase_but_the_task_itself() -> None:
    writers = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr == "phase"
    }
    assert writers == {"engine/live.py"}


def test_the_documentation_shows_the_table_as_it_is() -> None:
    rows = {
        tuple(cell.strip(" `") for cell in line.strip("|\n ").split("|"))
        for line in PAGE.read_text().split("<!-- phases -->")[1].splitlines()
        if line.startswith("| `")
    }
    expected = {
        (step.name, ", ".join(phase.name for phase in sorted(starts)), to.name)
        for step, steps in TABLE.items()
        for to in set(steps.values())
        for starts in [[start for start, target in steps.items() if target is to]]
    }
    assert rows == expected
