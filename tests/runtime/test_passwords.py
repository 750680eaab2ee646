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
    ],
)  # fmt: skip
def test_a_url_is_shown_without_its_password(text: str, shown: str) -> None:
    assert without_passwords(text) == shown
    assert without_passwords(shown) == shown


@given(st.text(st.characters(exclude_categories=["Z", "C"]), min_size=8), st.sampled_from(["redis", "http", "mysql+x"]))
def test_no_character_of_a_password_shows(password: str, scheme: str) -> None:
    shown = without_passwords(f"the URL {scheme}://ada:~{password}~@host/db is wrong")
    assert f"{scheme}://ada:***@host/db is wrong" in shown
