"""The page's copy of the vocabulary: it is the one of the package, and the page has no other."""

from __future__ import annotations

import re

import pytest

from taskflow_otel.model.vocabulary import Reason, Source
from taskflow_otel.web import vocabulary_script
from taskflow_otel.web.vocabulary_script import SCRIPT

SCRIPTS = sorted(path for path in SCRIPT.parent.glob("*.js") if path != SCRIPT)


def test_the_script_is_generated_from_the_vocabulary() -> None:
    assert SCRIPT.read_text("utf-8") == vocabulary_script.render(), "run: python -m taskflow_otel.web.vocabulary_script"


def test_the_script_has_a_text_for_every_reason() -> None:
    table = SCRIPT.read_text("utf-8").split("const REASONS = {")[1].split("};")[0]
    assert dict(re.findall(r'^  ([a-z_]+): "(.+)",$', table, re.MULTILINE)) == {r.value: r.label for r in Reason}


def test_everything_in_the_script_is_used_by_the_page() -> None:
    page = "".join(path.read_text("utf-8") for path in SCRIPTS)
    names = re.findall(r"^export const ([A-Z_]+)", SCRIPT.read_text("utf-8"), re.MULTILINE)
    lines = re.findall(r'import \{(.+?)\} from "./vocabulary.js"', page)
    imported = {name.strip() for line in lines for name in line.split(",")}
    assert imported == set(names)


@pytest.mark.parametrize("name", [path.name for path in SCRIPTS])
def test_no_other_script_lists_sources_or_reasons(name: str) -> None:
    text = SCRIPT.with_name(name).read_text("utf-8")
    words = {word.value for word in (*Reason, *Source)}
    lists = [set(re.findall(r"\w+", found)) & words for found in re.findall(r"[\[{][^\[\]{}]*[\]}]", text)]
    assert [sorted(found) for found in lists if len(found) > 2] == []
