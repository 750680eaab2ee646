"""Which attributes of a span are kept, and what is removed from them."""

from __future__ import annotations

from taskflow_otel.exporters.otel.kept_attributes import ADDRESSES, KEPT, kept_attributes


def test_only_what_is_listed_or_asked_for_is_kept() -> None:
    given = {
        "db.system.name": "postgresql",
        "db.query.text": "SELECT * FROM users WHERE email = 'jane@example.com'",
        "http.request.header.authorization": ["Bearer secret"],
        "enduser.id": "jane",
        "client.address": "10.0.0.1",
        "error.type": ["not", "plain"],
        "http.response.status_code": 404,
    }
    assert kept_attributes(given, KEPT) == {"db.system.name": "postgresql", "http.response.status_code": 404}
    assert "db.query.text" in kept_attributes(given, KEPT | {"db.query.text"})
    assert kept_attributes(None, KEPT) == {}


def test_addresses_lose_what_may_be_secret() -> None:
    assert ADDRESSES <= KEPT
    given = {
        "url.full": "https://jane:secret@example.com:8443/orders/7?token=secret#secret",
        "http.target": "/orders?token=secret",
        "http.url": "http://[broken/?token=secret",
    }
    kept = kept_attributes(given, KEPT)
    assert kept["url.full"] == "https://example.com:8443/orders/7"
    assert kept["http.target"] == "/orders"
    assert "secret" not in str(kept)


def test_the_number_of_attributes_is_bounded() -> None:
    names = [f"own.{number}" for number in range(100)]
    assert len(kept_attributes(dict.fromkeys(names, 1), frozenset(names))) == 40
