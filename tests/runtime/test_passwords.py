"""URLs are shown without their passwords."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow_otel.runtime.passwords import without_passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ada:s3cret@host/db", "postgresql://ada:***@host/db"),
        ("mysql+aiomysql://ada:s3cret@host:3306/db?charset=x", "mysql+aiomysql://ada:***@host:3306/db?charset=x"),
        ("redis://:s3cret@host:6379/0", "redis://:***@host:6379/0"),
        ("cannot read 'http://a:s3/c@r:et@h/x' or http://b:s3cret@h", "cannot read 'http://a:***@h/x' or http://b:***@h"),
        ("postgresql://host/db?user=ada&password=s3cret&sslmode=require",
         "postgresql://host/db?user=ada&password=***&sslmode=require"),
        ("https://host/metrics?access_token=s3cret#x", "https://host/metrics?access_token=***#x"),
        ("postgresql://host/db?sslpassword=s3cret", "postgresql://host/db?sslpassword=***"),
        ("http://host:8000/tasks/metrics", "http://host:8000/tasks/metrics"),
        ("ada@example.com: sent", "ada@example.com: sent"),
        ("https://ada@host/x", "https://ada@host/x"),
        ("no URL: a:b@c", "no URL: a:b@c"),
        ("postgresql://ada:s3 cret@host/db", "postgresql://ada:***@host/db"),
        ("the URL 'redis://:s3\tcr\net@host' is wrong", "the URL 'redis://:***@host' is wrong"),
        ("'postgresql://host/db?password=s3 cret&x=1' is wrong", "'postgresql://host/db?password=***&x=1' is wrong"),
        ("http://host:8000/x failed: tell ada@example.com", "http://host:8000/x failed: tell ada@example.com"),
        ("http://host:8000. Tell ada@example.com", "http://host:8000. Tell ada@example.com"),
        ("http://[::1]:8000/x failed: tell ada@example.com", "http://[::1]:8000/x failed: tell ada@example.com"),
        ("https://host/?token=s3cret failed for ada", "https://host/?token=*** failed for ada"),
    ],
)  # fmt: skip
def test_a_url_is_shown_without_its_password(text: str, shown: str) -> None:
    assert without_passwords(text) == shown
    assert without_passwords(shown) == shown


@given(st.text(st.characters(exclude_categories=["Z", "C"]), min_size=8), st.sampled_from(["redis", "http", "mysql+x"]))
def test_no_character_of_a_password_shows(password: str, scheme: str) -> None:
    shown = without_passwords(f"the URL {scheme}://ada:~{password}~@host/db is wrong")
    assert f"{scheme}://ada:***@host/db is wrong" in shown


@given(st.text(st.characters(exclude_characters="@"), min_size=1, max_size=100))
def test_white_space_does_not_end_a_password(password: str) -> None:
    shown = without_passwords(f"the URL mysql://ada:~{password}~@host/db is wrong")
    assert shown == "the URL mysql://ada:***@host/db is wrong"


def test_a_long_text_is_looked_through_in_little_time() -> None:
    # Without bounds, these take minutes: each beginning would be compared with all of the rest.
    for piece in ("a://b:", "http://b:c d ", "x" * 50, "a-", "'a://"):
        text = piece * (200_000 // len(piece))
        assert without_passwords(text).count("@") == text.count("@")
