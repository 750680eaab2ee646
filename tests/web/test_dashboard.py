"""The page, its files and its login form."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.web.conftest import ClientOf
from tests.web.users import FORM, USER


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Mode": "cors"}, {"Accept": "text/event-stream"}])
async def test_the_page_is_not_interrupted_by_the_browsers_own_login_dialog(
    client_of: ClientOf, headers: dict[str, str]
) -> None:
    answer = await client_of(auth=USER).get("/tasks", headers=headers)
    assert answer.status_code == 401
    assert "WWW-Authenticate" not in answer.headers


async def test_the_page_leads_to_the_login_and_back_to_the_view_it_was_on(client_of: ClientOf) -> None:
    client = client_of(auth=USER)
    answer = await client.get("/tasks/dashboard?view=tasks&q=a%26b")
    assert answer.status_code == 303
    login = httpx.URL("http://test/tasks/dashboard").join(answer.headers["Location"])
    form = await client.get(login)
    action = re.search(r'action="([^"]+)"', form.text)
    assert action is not None
    answer = await client.post(login.join(action[1].replace("&amp;", "&")), data=FORM)
    assert httpx.URL("http://test/tasks/login").join(answer.headers["Location"]) == httpx.URL(
        "http://test/tasks/dashboard?view=tasks&q=a%26b"
    )


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "x\r\nSet-Cookie: a=b", "/../../x"])
async def test_the_login_leads_nowhere_but_to_the_page(client_of: ClientOf, target: str) -> None:
    answer = await client_of(auth=USER).post("/tasks/login", params={"next": target}, data=FORM)
    location = httpx.URL("http://test/tasks/login").join(answer.headers["Location"])
    assert (location.host, location.path) == ("test", "/tasks/dashboard")
    assert len(answer.headers.get_list("Set-Cookie")) == 1


async def test_a_login_form_of_megabytes_is_refused(client_of: ClientOf) -> None:
    assert (await client_of(auth=USER).post("/tasks/login", content=b"x" * 100_000)).status_code == 413


async def test_the_title_is_data_on_both_pages(client_of: ClientOf) -> None:
    client = client_of(auth=USER, title="</title><script>alert(1)</script>$title")
    for address in ("/tasks/login", "/tasks/dashboard"):
        text = (await client.get(address, auth=USER)).text
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;$title" in text


async def test_pages_and_files_carry_a_strict_policy_and_nothing_inline(client_of: ClientOf) -> None:
    client = client_of()
    page = await client.get("/tasks/dashboard")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|style=|https?://|(?:href|src)=\"/", page.text)
    files = re.findall(r'(?:src|href)="(static/[^"]+)"', page.text)
    assert files
    for name in files:
        answer = await client.get(f"/tasks/{name}")
        assert answer.status_code == 200
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        again = await client.get(f"/tasks/{name}", headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["none.js", "index.html", "..%2fapi.py", "%2e%2e%2fapi.py", "%00"])
async def test_only_the_files_of_the_page_are_served(client_of: ClientOf, name: str) -> None:
    assert (await client_of().get(f"/tasks/static/{name}")).status_code == 404
