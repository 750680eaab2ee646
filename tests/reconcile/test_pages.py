"""Metrics pages by HTTP: a secret is sent to the address that was given, and to no other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from taskflow_otel.errors import ConfigurationError
from taskflow_otel.reconcile.pages import read_page


class Site(ThreadingHTTPServer):
    """A server that notes the secrets it gets, and redirects everything below `/go` to another one."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Visit)
        self.seen: list[tuple[str, str | None]] = []
        self.target = ""
        self.url = f"http://127.0.0.1:{self.server_port}"


class Visit(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Site)
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        if self.path.startswith("/go"):
            self.send_response(int(self.path.rpartition("/")[2]))
            self.send_header("Location", self.server.target)
            self.end_headers()
            return
        status = 403 if self.path == "/closed" else 200
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"\xff" if self.path == "/binary" else b"taskflow_x 1\n")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield site
        site.shutdown()
        thread.join()


def test_the_token_is_sent_as_a_bearer(site: Site) -> None:
    assert read_page(f"{site.url}/metrics", "s3cret") == "taskflow_x 1\n"
    assert site.seen == [("/metrics", "Bearer s3cret")]


def test_user_and_password_of_the_address_are_sent_as_basic_credentials(site: Site) -> None:
    read_page(f"http://ada:pa%2Fss@127.0.0.1:{site.server_port}/metrics", None)
    assert site.seen == [("/metrics", "Basic YWRhOnBhL3Nz")]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("elsewhere", ["/other", "http://ada:s3cret@localhost:{port}/other", "file:///etc/hostname"])
def test_a_redirect_is_named_and_not_followed(site: Site, status: int, elsewhere: str) -> None:
    site.target = elsewhere.format(port=site.server_port)
    with pytest.raises(ConfigurationError, match="redirects to") as caught:
        read_page(f"{site.url}/go/{status}", "s3cret")
    assert [path for path, _ in site.seen] == [f"/go/{status}"]
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("path", ["closed", "binary"])
def test_a_page_that_cannot_be_read_is_named_without_the_password(site: Site, path: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read") as caught:
        read_page(f"http://ada:s3cret@127.0.0.1:{site.server_port}/{path}", None)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_page_in_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "page").write_text("taskflow_x 1\n")
    assert read_page(str(tmp_path / "page"), None) == "taskflow_x 1\n"
