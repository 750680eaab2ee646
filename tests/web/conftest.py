"""An application with the administration mounted on it, called in the process, over HTTP, or by a real browser."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from playwright.async_api import Browser, Page, ViewportSize, async_playwright, expect
from starlette.applications import Starlette
from starlette.routing import Mount

from taskflow_otel.admin import TaskAdmin
from tests.managers import started
from tests.waiting import eventually
from tests.web.house import House

ClientOf = Callable[..., httpx.AsyncClient]
_CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# A machine that does twenty other things may need some seconds for what takes some milliseconds elsewhere.
expect.set_options(timeout=45_000)

KEEP_TOASTS = """
    const remove = Element.prototype.remove;
    Element.prototype.remove = function () {
        if (!this.classList.contains("toast")) return remove.call(this);
        if (!this.querySelector("a")) this.style.pointerEvents = "none";
    };
"""
"""What the page says for some seconds stays, as a slow test would come too late to read it; it is in nobody's way."""


@pytest.fixture
async def engine() -> AsyncIterator[House]:
    house = House()
    async with started(house.manager):
        house.open()
        yield house
        house.backend.unreadable = house.backend.unwritable = None


@pytest.fixture
def app_of(engine: House) -> Callable[..., FastAPI]:
    """An application with `TaskAdmin(**options)` over the engine of the test."""

    def build(**options: Any) -> FastAPI:
        app = FastAPI()
        TaskAdmin(app, engine.manager, **options)
        return app

    return build


@pytest.fixture
async def client_of(app_of: Callable[..., FastAPI]) -> AsyncIterator[ClientOf]:
    """Clients of applications in this process."""
    clients: list[httpx.AsyncClient] = []

    def connect(base_url: str = "http://test", **options: Any) -> httpx.AsyncClient:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app_of(**options)), base_url=base_url)
        clients.append(client)
        return client

    yield connect
    for client in clients:
        await client.aclose()


@pytest.fixture
def client(client_of: ClientOf) -> httpx.AsyncClient:
    """A client of an open application."""
    return client_of()


class Served:
    """A real server in the loop of the test."""

    def __init__(self, server: uvicorn.Server, ended: asyncio.Task[None]) -> None:
        self.server = server
        self.ended = ended
        self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


@asynccontextmanager
async def serve(app: Any, *, lifespan: Literal["on", "off"] = "off") -> AsyncIterator[Served]:
    """Serve an application on a free port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none", lifespan=lifespan))
    ended = asyncio.create_task(server.serve())
    await eventually(lambda: server.started or ended.done(), "the start of the server")
    try:
        yield Served(server, ended)
    finally:
        server.should_exit = True
        await asyncio.wait_for(ended, 60)


@pytest.fixture
def serving() -> Callable[..., AbstractAsyncContextManager[Served]]:
    return serve


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A headless Chromium; without one the test is skipped on a laptop and fails in CI."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        reason = "chromium is not installed (Debian package: chromium)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=_CHROMIUM_ARGS)
        yield browser
        await browser.close()


class Shown:
    """A page in the browser: its server, and what the browser complained about."""

    def __init__(self, page: Page, served: Served, complaints: list[str]) -> None:
        self.page = page
        self.served = served
        self.complaints = complaints


async def is_read(page: Page) -> None:
    """Wait until the view shows what it has read."""
    await expect(page.locator("main > .view")).to_have_attribute("data-phase", "ready")


OpenPage = Callable[..., AbstractAsyncContextManager[Page]]
ShowPage = Callable[..., AbstractAsyncContextManager[Shown]]


@pytest.fixture
def shown(
    browser: Browser, app_of: Callable[..., FastAPI], serving: Callable[..., AbstractAsyncContextManager[Served]]
) -> ShowPage:
    """Open a view of the page in a context of the browser with these `context` options."""

    @asynccontextmanager
    async def show_page(
        query: str = "",
        *,
        prefix: str = "",
        viewport: tuple[int, int] = (1280, 800),
        context: Mapping[str, Any] | None = None,
        prepare: Callable[[Page], Awaitable[None]] | None = None,
        **options: Any,
    ) -> AsyncIterator[Shown]:
        app: Any = app_of(**options)
        if prefix:
            app = Starlette(routes=[Mount(prefix, app)])
        async with serving(app) as served:
            size: ViewportSize = {"width": viewport[0], "height": viewport[1]}
            opened = await browser.new_context(viewport=size, **(context or {}))
            page = await opened.new_page()
            complaints: list[str] = []
            page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            await page.add_init_script(KEEP_TOASTS)
            if prepare is not None:
                await prepare(page)
            await page.goto(f"{served.url}{prefix}/tasks/dashboard{query}")
            yield Shown(page, served, complaints)
            await opened.close()

    return show_page


@pytest.fixture
def opened(shown: ShowPage) -> OpenPage:
    """The same; whatever the browser complains about fails the test."""

    @asynccontextmanager
    async def open_page(query: str = "", **options: Any) -> AsyncIterator[Page]:
        async with shown(query, **options) as one:
            yield one.page
        assert one.complaints == []

    return open_page
