"""The reference of settings names each of them, and is that of the code."""

from __future__ import annotations

import re

from tests.settings_page import PAGE, PARTS, TOLD, VARIABLES, code, page, parameters, undescribed


def test_each_setting_is_described() -> None:
    assert undescribed() == []


def test_what_is_described_by_hand_exists() -> None:
    known = {part.title: {one.name for one in parameters(part)} for part in PARTS}
    assert [(title, name) for title, texts in TOLD.items() for name in texts if name not in known[title]] == []


def test_the_page_is_that_of_the_code() -> None:
    assert PAGE.read_text() == page()


def test_each_variable_of_the_environment_is_described() -> None:
    text, package = PAGE.read_text(), code()
    named = set(re.findall(r'"((?:TASKFLOW|OTEL|DEMO)_[A-Z_]*[A-Z])"', package))
    assert {name for name in named if f"`{name}`" not in text} == set()
    assert {name for name in VARIABLES if name not in package} == set()
