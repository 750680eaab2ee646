"""What the page costs its reader while tasks change: `python -m benchmarks.watching [--rate 50] [--seconds 20]`.

A real manager runs tasks that change three times each (enqueued, started, ended), and Chromium has the list open. The
figures are the browser's own: the share of one core of the process that draws the page, and of the main thread of it,
for what; how often the browser noticed that something moved by itself, and how many rows there are.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from playwright.async_api import CDPSession, async_playwright

from taskflow_otel import TaskAdmin, TaskManager

_CHANGES_OF_A_TASK = 3
_RUN_SECONDS = 0.4
_PARTS = ("TaskDuration", "ScriptDuration", "LayoutDuration", "RecalcStyleDuration")
_SHIFTS = """() => {
  window.shifts = 0;
  new PerformanceObserver((list) => (shifts += list.getEntries().length)).observe({ type: "layout-shift" });
}"""


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50.0, help="changes a second (default: 50)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to watch (default: 20)")
    parser.add_argument("--view", default="view=tasks", help="the view, as the query string (default: view=tasks)")
    given = parser.parse_args()
    print(json.dumps(asyncio.run(watch(given.rate, given.seconds, given.view)), indent=2))


async def watch(rate: float, seconds: float, view: str) -> dict[str, Any]:
    """The figures of one page over this time."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("chromium is not installed (Debian package: chromium)")
    async with _served() as (enqueue, address), async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        whole = await browser.new_browser_cdp_session()
        page = await browser.new_page(viewport={"width": 1280, "height": 800})
        load = asyncio.create_task(_load(enqueue, rate / _CHANGES_OF_A_TASK))
        await page.goto(f"{address}/tasks/dashboard?{view}")
        # The first page fills before the figures begin.
        await asyncio.sleep(8)
        await page.evaluate(_SHIFTS)
        session = await page.context.new_cdp_session(page)
        await session.send("Performance.enable", {"timeDomain": "threadTicks"})
        before, used = await _main_thread(session), await _used(whole)
        await asyncio.sleep(seconds)
        after, used_later = await _main_thread(session), await _used(whole)
        found = {
            "changes_per_second": rate,
            "seconds": seconds,
            "renderer_share_of_a_core": round((used_later - used) / seconds, 3),
            "main_thread": {name: round((after[name] - before[name]) / seconds, 3) for name in _PARTS},
            "layouts_per_second": round((after["LayoutCount"] - before["LayoutCount"]) / seconds, 1),
            "layout_shifts": await page.evaluate("shifts"),
            "rows": await page.locator("tbody tr").count(),
            "nodes": int(after["Nodes"]),
        }
        load.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await load
        await browser.close()
        return found


@asynccontextmanager
async def _served() -> AsyncIterator[tuple[Callable[[], Awaitable[str]], str]]:
    manager = TaskManager()
    work = manager.task(name="charge_card")(_work)
    app = FastAPI()
    TaskAdmin(app, manager, auto_install=True)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    ended = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  # it has no event for this
        await asyncio.sleep(0.01)
    yield lambda: manager.enqueue(work), f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await ended


async def _work() -> None:
    await asyncio.sleep(_RUN_SECONDS)


async def _load(enqueue: Callable[[], Awaitable[str]], rate: float) -> None:
    """Enqueue tasks at this rate, for as long as nobody stops it."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        await enqueue()
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - loop.time()))


async def _main_thread(session: CDPSession) -> dict[str, float]:
    """What the main thread of the page has done since its beginning, in seconds and numbers."""
    answer = await session.send("Performance.getMetrics")
    return {metric["name"]: metric["value"] for metric in answer["metrics"]}


async def _used(browser: CDPSession) -> float:
    """Seconds of CPU of the processes that draw pages."""
    answer = await browser.send("SystemInfo.getProcessInfo")
    return sum(float(process["cpuTime"]) for process in answer["processInfo"] if process["type"] == "renderer")


if __name__ == "__main__":
    main()
