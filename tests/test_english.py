"""Texts for people are plain English: no phrase that must be read twice, no reference to a page outside the repository.

Checked are docstrings, comments and texts in Python, and whole files of other kinds.
"""

from __future__ import annotations

import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHECKED = ("taskflow_otel", "docs", "dashboards", "examples", "tests", "README.md", "CHANGELOG.md", "SECURITY.md")
KINDS = {".py", ".md", ".js", ".html", ".lua", ".yml", ".yaml"}
PYTHON_TEXT = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}

BETTER = {
    r"told of|telling of": "published, reported",
    r"so many": "the name of the number",
    r"meanwhile": "since, during that time",
    r"(?:is|are) (?-i:none)(?! of\b)": "is not one",
    r"in vain": "without success",
    r"go(?:es)? on|going on": "continues, runs on",
    r"lets? go of|lets? \w+ go|letting go": "forgets, releases",
    r"for \w+(?:'s)? sake|another one's": "because of a conflicting one",
    r"that is older than": "earlier",
    r"stands? in the ledger": "is in the ledger",
    r"(?:the )?other way round": "reversed",
    r"as it were": "leave it out",
    r"of all others": "the others",
    r"hitherto|whereof|henceforth|whereby|thereof": "a plain word",
    r"what (?:becomes|became|has become) of": "what happens to, what happened to",
    r"whoever|whichever|whomever": "the one that, any",
    r"somebody": "someone",
    r"(?:be|is|are|was|puts?) put right|puts? right": "repaired",
    r"all the same(?! \w)": "nevertheless",
    r"taken for dead": "declared dead",
    r"before long": "soon",
    r"is to be|are to be|was to be": "will be, must be",
    r"(?:cannot|could not) be had": "is not available",
}
PRIVATE = re.compile(r"\bSPEC\b")
"""A page that is not in the repository; `docs/guarantees.md` has what the library guarantees."""


def files(*places: str) -> list[Path]:
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", *places], cwd=ROOT, capture_output=True, text=True, check=True)
        paths = [ROOT / name for name in listed.stdout.splitlines()]
    else:
        # An unpacked source distribution has no other files.
        paths = [
            path
            for place in places
            for path in ([ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("*"))
        ]
    return [path for path in paths if path.suffix in KINDS and path.exists() and path != Path(__file__)]


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that hold text for people, with their numbers."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and token.string.startswith("test_"):
            # The name of a test is a sentence.
            yield token.start[0], token.string.replace("_", " ")
        elif token.type in PYTHON_TEXT:
            yield from enumerate(token.string.splitlines(), token.start[0])


@cache
def texts() -> list[tuple[str, str]]:
    """Each line of text with its place: read once, for all phrases."""
    return [
        (f"{path.relative_to(ROOT)}:{number}", line.strip())
        for path in files(*CHECKED)
        for number, line in lines(path)
        if line.strip()
    ]


def found(pattern: re.Pattern[str]) -> list[str]:
    return [f"{place}: {line}" for place, line in texts() if pattern.search(line)]


@pytest.mark.parametrize("phrase", BETTER)
def test_texts_for_people_use_plain_words(phrase: str) -> None:
    places = found(re.compile(rf"\b(?:{phrase})\b", re.IGNORECASE))
    assert not places, f"better: {BETTER[phrase]}\n" + "\n".join(places)


def test_no_text_refers_to_a_page_that_is_not_in_the_repository() -> None:
    places = found(PRIVATE)
    assert not places, "better: docs/guarantees.md\n" + "\n".join(places)


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        ("every line has been told of", r"told of|telling of"),
        ("a page that is none", r"(?:is|are) (?-i:none)(?! of\b)"),
        ("it Goes on", r"go(?:es)? on|going on"),
    ],
)
def test_the_check_finds_a_phrase(line: str, phrase: str) -> None:
    assert re.search(rf"\b(?:{phrase})\b", line, re.IGNORECASE)


def test_a_value_that_is_none_is_no_such_phrase() -> None:
    assert not re.search(r"\b(?:(?:is|are) (?-i:none)(?! of\b))\b", "the cursor is None", re.IGNORECASE)
