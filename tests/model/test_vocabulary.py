"""The words in themselves, and that the package uses the members in place of texts of its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import get_args

import pytest

from taskflow_otel.backends.base import Outcome
from taskflow_otel.model import vocabulary
from taskflow_otel.model.options import ExecutorName
from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.vocabulary import LOG_LEVELS, ExecutorKind, LogLevel, Reason, Word

PACKAGE = Path(vocabulary.__file__).parents[1]
MODULES = {
    str(path.relative_to(PACKAGE)): ast.parse(path.read_text("utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "vocabulary.py"
}
SETS: list[type[Word]] = Word.__subclasses__()
REASONS = {reason.value for reason in Reason}
ELSEWHERE = {"timeout", "overlap", "takeover"}
"""Reasons that are names of an option or of a service too."""
KINDS: list[type[StrEnum]] = [*SETS, TaskStatus, Transition, Outcome]
OTHERS = {word.value for kind in KINDS if kind is not Reason for word in kind}
OWN = REASONS - OTHERS - ELSEWHERE
"""Texts that can mean nothing but a reason."""


def texts(node: ast.AST) -> Iterator[ast.Constant]:
    """The reasons spelled as texts in a part of a module, the members of enums excepted."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and any(ast.unparse(base).endswith("Enum") for base in child.bases):
            continue
        if isinstance(child, ast.Constant) and child.value in REASONS:
            yield child
        yield from texts(child)


def meant_as_reasons(module: ast.Module) -> Iterator[ast.Constant]:
    """The texts that stand where a reason is compared, passed or assigned, and those that can mean nothing else."""
    for node in ast.walk(module):
        match node:
            case ast.Compare():
                yield from texts(node)
            case ast.keyword(arg=str(name)) if name.endswith("reason"):
                yield from texts(ast.Expression(node.value))
            case ast.Assign(targets=[target], value=value) | ast.AnnAssign(target=target, value=ast.expr() as value):
                if re.search(r"reason\b", ast.unparse(target)):
                    yield from texts(ast.Expression(value))
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "reason":
                        yield from texts(ast.Expression(value))
    yield from (text for text in texts(module) if text.value in OWN)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_names_a_reason_by_its_member(name: str) -> None:
    assert sorted({(text.lineno, str(text.value)) for text in meant_as_reasons(MODULES[name])}) == []


@pytest.mark.parametrize(
    "line",
    [
        'if event.reason == "timeout": pass',
        'found = event.reason in {"overlap", other}',
        'move(task, reason="cancelled")',
        'reason = "timeout" if late else None',
        'task.cancel_reason = "shutdown"',
        'transition, reason = Transition.FAILED, "overlap"',
        'row = {"reason": "duplicate"}',
        'withdraw(tasks, "request_failed")',
    ],
)
def test_a_reason_that_is_spelled_as_a_text_is_found(line: str) -> None:
    assert list(meant_as_reasons(ast.parse(line)))


@pytest.mark.parametrize("line", ['seconds("timeout", timeout)', 'rows = (("overlap", self.overlap, allowed),)'])
def test_the_same_text_for_something_else_is_not_taken_for_a_reason(line: str) -> None:
    assert list(meant_as_reasons(ast.parse(line))) == []


WORDS = REASONS | OTHERS
FIELDS = {"source", "executor", "state", "level", "outcome"}
"""Names of fields that hold a word."""
NOT_WORDS = {("backends/redis/connection.py", "used"): "what the driver calls a connection that is in use"}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_compares_with_the_member_of_a_word(name: str) -> None:
    places = [
        node.value if isinstance(node, ast.keyword) else node
        for node in ast.walk(MODULES[name])
        if isinstance(node, ast.Compare) or (isinstance(node, ast.keyword) and node.arg in FIELDS)
    ]
    texts = [text for place in places for text in ast.walk(place) if isinstance(text, ast.Constant)]
    found = {(text.lineno, text.value) for text in texts if text.value in WORDS and (name, text.value) not in NOT_WORDS}
    assert found == set()


def given(node: ast.AST) -> Iterator[str]:
    """The reasons that a part of a module passes, assigns or returns: not those that it compares with."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Compare() | ast.Set():
                continue
            case ast.Attribute(value=ast.Name(id="Reason"), attr=member):
                yield member
            case _:
                yield from given(child)


def test_every_reason_is_given_somewhere() -> None:
    assert {member for module in MODULES.values() for member in given(module)} == set(Reason.__members__)


@pytest.mark.parametrize("kind", SETS)
def test_every_word_has_a_meaning_in_one_sentence(kind: type[Word]) -> None:
    assert [word for word in kind if not word.meaning.endswith(".") or ". " in word.meaning] == []
    assert kind.__doc__


@pytest.mark.parametrize("kind", SETS)
def test_a_word_is_its_plain_text(kind: type[Word]) -> None:
    for word in kind:
        assert type(word.value) is str
        assert {word.value: 1}[word] == 1
        assert kind(word.value) is word  # type: ignore[call-arg]  # by its value
        assert f"{word}" == word == word.value


def test_the_executors_that_a_person_can_write_are_all_kinds() -> None:
    assert get_args(ExecutorName) == tuple(ExecutorKind)


def test_every_level_has_its_number() -> None:
    assert list(LOG_LEVELS) == list(LogLevel)
    assert sorted(LOG_LEVELS.values()) == list(LOG_LEVELS.values())


def test_the_names_for_type_checkers_are_those_of_the_vocabulary() -> None:
    assert set(get_args(ExecutorName)) == {kind.value for kind in ExecutorKind}
