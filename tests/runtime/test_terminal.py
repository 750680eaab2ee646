"""Text from elsewhere on a terminal: one line, without control."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow_otel.runtime.terminal import escape, say

BIDIRECTIONAL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@given(st.text())
def test_no_text_leaves_its_line_or_controls_the_terminal(text: str) -> None:
    shown = escape(text)
    assert len(shown.splitlines()) <= 1
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Zl", "Zp"}
    assert not set(BIDIRECTIONAL) & set(shown)


@pytest.mark.parametrize("text", ["größe 🎉 – ‰", "שלום", "a b"])
def test_other_text_is_shown_as_it_is(text: str) -> None:
    assert escape(text) == text


@pytest.mark.parametrize(
    ("encoding", "written"),
    [("utf-8", "é \\x1b[31m \\udc80 \\n\\u202e\n"), ("ascii", "\\xe9 \\x1b[31m \\udc80 \\n\\u202e\n")],
)
def test_what_a_terminal_cannot_show_is_written_as_an_escape(encoding: str, written: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="")
    say("é \x1b[31m \udc80 \n\u202e", stream)
    stream.flush()
    assert raw.getvalue().decode(encoding) == written


def test_a_line_shows_no_password_of_a_url() -> None:
    stream = io.StringIO()
    say("cannot reach redis://ada:s3 cret\n@host:6379/0", stream)
    assert stream.getvalue() == "cannot reach redis://ada:***@host:6379/0\n"
