"""The address of a request: compared part by part, and found behind proxies."""

from __future__ import annotations

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from taskflow_otel.web.addresses import (
    Origin,
    client_scheme,
    named_hosts,
    own_origins,
    parse_authority,
    parse_origin,
    stated_origin,
)


def request(scheme: str = "http", **headers: str | list[str]) -> Request:
    """A request with these headers; a list is sent as several lines."""
    lines = [
        (name.replace("_", "-").encode(), value.encode())
        for name, values in headers.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    return Request({"type": "http", "scheme": scheme, "headers": lines, "path": "/", "query_string": b""})


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("example.com", "example.com", None),
        ("EXAMPLE.com:8443", "example.com", 8443),
        ("example.com.", "example.com", None),
        ("127.0.0.1:80", "127.0.0.1", 80),
        ("[::1]:8000", "::1", 8000),
        ("[0:0:0:0:0:0:0:1]", "::1", None),
        ("[2001:DB8::0001]", "2001:db8::1", None),
        ("bücher.example", "xn--bcher-kva.example", None),
        ("BÜCHER.example:81", "xn--bcher-kva.example", 81),
        ("XN--bcher-kva.example", "xn--bcher-kva.example", None),
        ("evil。example", "evil.example", None),
        ("my_app:8000", "my_app", 8000),
    ],
)
def test_a_host_has_one_spelling(text: str, host: str, port: int | None) -> None:
    assert parse_authority(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    ["", ":80", "a b", "a/b", "user@host", "host:port", "host:99999", "[::1", "::1", "evil%2eexample", "a\\b", "a?b",
     "a#b", "a\x00b", "a" * 400, "."],
)  # fmt: skip
def test_a_text_that_is_not_a_host_is_not_guessed_at(text: str) -> None:
    assert parse_authority(text) is None


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    assert parse_authority(text) is None or isinstance(parse_authority(text), tuple)
    assert parse_origin(text) is None or isinstance(parse_origin(text), Origin)


@pytest.mark.parametrize("text", ["null", "", "file://", "ftp://x", "chrome-extension://abc", "http://x/", "//x", "x"])
def test_an_origin_that_is_not_of_http_is_no_origin(text: str) -> None:
    assert parse_origin(text) is None


@pytest.mark.parametrize(
    ("origin", "scheme", "headers", "same"),
    [
        ("http://a.example", "http", {"host": "a.example"}, True),
        ("http://a.example:80", "http", {"host": "a.example"}, True),
        ("https://a.example", "https", {"host": "a.example:443"}, True),
        ("HTTP://A.Example", "http", {"host": "a.example"}, True),
        ("http://[::1]:8000", "http", {"host": "[0:0::1]:8000"}, True),
        ("http://xn--bcher-kva.example", "http", {"host": "bücher.example"}, True),
        ("https://a.example", "http", {"host": "a.example"}, False),
        ("http://a.example", "https", {"host": "a.example"}, False),
        ("http://a.example:8000", "http", {"host": "a.example"}, False),
        ("http://a.example", "http", {"host": "a.example:443"}, False),
        ("http://b.a.example", "http", {"host": "a.example"}, False),
        ("http://a.example.evil", "http", {"host": "a.example"}, False),
        ("http://a.example@evil", "http", {"host": "a.example"}, False),
        ("null", "http", {"host": "a.example"}, False),
        ("null", "http", {}, False),
        ("https://a.example", "http", {"host": "a.example", "x_forwarded_proto": "https"}, True),
        ("https://a.example", "http", {"host": "a.example", "x_forwarded_proto": "https, http"}, True),
        ("http://a.example", "http", {"host": "a.example", "x_forwarded_proto": "https, http"}, False),
        ("https://a.example", "http", {"host": "app:8000", "forwarded": "proto=https;host=a.example"}, True),
        ("https://a.example:8443", "http", {"host": "app", "forwarded": 'host="a.example:8443";proto=https'}, True),
        (
            "https://a.example:8443",
            "http",
            {"host": "a.example", "x_forwarded_proto": "https", "x_forwarded_port": "8443"},
            True,
        ),
        (
            "https://a.example",
            "http",
            {"host": "app", "x_forwarded_host": "a.example", "x_forwarded_proto": "https"},
            True,
        ),
    ],
)  # fmt: skip
def test_origins_are_compared_by_scheme_host_and_port(
    origin: str, scheme: str, headers: dict[str, str], same: bool
) -> None:
    asked = request(scheme, origin=origin, **headers)
    assert (stated_origin(asked) in own_origins(asked)) is same


@pytest.mark.parametrize(
    ("scheme", "headers", "https"),
    [
        ("http", {}, False),
        ("https", {}, True),
        ("http", {"x_forwarded_proto": "https"}, True),
        ("http", {"x_forwarded_proto": "HTTPS"}, True),
        ("http", {"x_forwarded_proto": "https, http"}, True),
        ("http", {"x_forwarded_proto": "https,https,http"}, True),
        ("http", {"x_forwarded_proto": ["https", "http"]}, True),
        ("http", {"x_forwarded_proto": "http, https"}, False),
        ("https", {"x_forwarded_proto": "http"}, True),
        ("http", {"forwarded": "for=192.0.2.1;proto=https"}, True),
        ("http", {"forwarded": 'For="[2001:db8::1]:47";Proto="https", for=10.0.0.1;proto=http'}, True),
        ("http", {"forwarded": ["for=192.0.2.1;proto=https;by=x", "proto=http"]}, True),
        ("http", {"forwarded": "for=192.0.2.1, proto=https"}, False),
        ("http", {"forwarded": 'for="a,proto=https"'}, False),
        ("http", {"forwarded": "proto=https", "x_forwarded_proto": "http"}, True),
        ("https", {"forwarded": "garbage"}, True),
        ("https", {"x_forwarded_proto": "gopher"}, True),
    ],
)
def test_the_scheme_is_the_one_that_the_first_proxy_received(
    scheme: str, headers: dict[str, str | list[str]], https: bool
) -> None:
    assert (client_scheme(request(scheme, **headers)) == "https") is https


@given(st.text(alphabet=st.characters(max_codepoint=255)))
def test_no_header_breaks_a_request(text: str) -> None:
    line = text.encode("latin-1")
    names = (b"host", b"origin", b"forwarded", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port")
    asked = Request({"type": "http", "scheme": "http", "headers": [(name, line) for name in names]})
    assert client_scheme(asked) in {"http", "https"}
    assert stated_origin(asked) is None or own_origins(asked) is not None
    assert isinstance(named_hosts(asked), list)
