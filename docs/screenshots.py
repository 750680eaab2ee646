"""Takes the screenshots of the README and the documentation, light and dark, and some as on a phone. Needs Chromium.

python -m docs.screenshots        # of the demo, once it has run for a quarter of an hour
python -m docs.screenshots URL    # of a demo that runs already, such as http://127.0.0.1:8000
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import ViewportSize, sync_playwright

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
FINISHED = 2000
"""Tasks that the demo finishes before the pictures are taken: some in each minute that the page shows."""
VIEWS = {
    "overview": "",
    "types": "?view=types",
    "failures": "?view=failures",
    "task": "?view=task&id={task_id}",
    "failed": "?view=task&id={failed_id}",
}
"""The name of each picture, and the view of the page. One task was retried, the other one has failed."""
ON_PHONE = ("overview", "failures", "failed")
"""The views of which there is a picture as on a phone."""
DESK: ViewportSize = {"width": 1200, "height": 760}
PHONE: ViewportSize = {"width": 390, "height": 760}
SETTLED = 3_000
"""Milliseconds after which a view has its data, and its animations have ended."""


@contextmanager
def demo(directory: Path) -> Iterator[str]:
    """The example app on a free port; its base URL."""
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    environment = {**os.environ, "DEMO_DB": str(directory / "demo.db"), "DEMO_PORT": str(port), "DEMO_LOAD": "1"}
    process = subprocess.Popen([sys.executable, "-m", "examples.demo"], cwd=ROOT, env=environment)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def read(url: str) -> Any:
    """An answer of the API; `None` as long as the demo does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return None


def take(url: str) -> None:
    """Take all pictures of a running demo."""
    done = read(f"{url}/tasks?func_name=charge_card&status=success")
    retried = next(task for task in done if task["retries_used"] == 2)
    failed = read(f"{url}/tasks?func_name=charge_card&status=failed&limit=1") or read(
        f"{url}/tasks?status=failed&limit=1"
    )
    ids = {"task_id": retried["task_id"], "failed_id": failed[0]["task_id"]}
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme in SCHEMES:
            for device, size, views in (("", DESK, tuple(VIEWS)), ("phone-", PHONE, ON_PHONE)):
                page = browser.new_page(viewport=size, color_scheme=scheme, is_mobile=bool(device))
                for name in views:
                    page.goto(f"{url}/tasks/dashboard{VIEWS[name].format(**ids)}")
                    page.wait_for_timeout(SETTLED)
                    path = IMAGES / f"{name}-{device}{scheme}.png"
                    page.screenshot(path=path)
                    sys.stdout.write(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} KB\n")
                page.close()
        browser.close()


def main(arguments: list[str]) -> None:
    """Take the pictures of the demo at a URL, or of a new one."""
    IMAGES.mkdir(exist_ok=True)
    if arguments:
        take(arguments[0])
        return
    with tempfile.TemporaryDirectory() as directory, demo(Path(directory)) as url:
        while (read(f"{url}/tasks/stats") or {}).get("success", 0) < FINISHED:
            time.sleep(1)
        take(url)


if __name__ == "__main__":
    main(sys.argv[1:])
