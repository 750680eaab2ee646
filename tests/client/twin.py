"""The synchronous client, written from the asynchronous one.

python -m tests.client.twin        # write the synchronous modules of taskflow_otel/client anew
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[2] / "taskflow_otel" / "client"
TWINS = {CLIENT / "aio.py": CLIENT / "sync.py", CLIENT / "aio_connection.py": CLIENT / "sync_connection.py"}
"""Each asynchronous module, and the one that is written from it."""
NAMES = {
    "AsyncClient": "Client",
    "AsyncConnection": "Connection",
    "AsyncGenerator": "Generator",
    "AsyncIterator": "Iterator",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aclose": "close",
    "aio_connection": "sync_connection",
    "aiter_bytes": "iter_bytes",
    "aread": "read",
    "asynccontextmanager": "contextmanager",
    "asyncio": "time",
}
"""The names that differ, each with its counterpart."""
_DOCSTRINGS = {
    "aio": '"""The client for programs without asyncio, written from `client/aio.py`: change that one."""',
    "aio_connection": '"""The connection of the client, written from `client/aio_connection.py`: change that one."""',
}


def synchronous(module: Path) -> str:
    """The source of the synchronous twin of a module."""
    _, rest = module.read_text("utf-8").split("\n", 1)
    rest = re.sub(r"\basync (def|with|for)\b", r"\1", rest)
    rest = re.sub(r"\bawait ", "", rest)
    rest = re.sub(rf"\b(?:{'|'.join(NAMES)})\b", lambda found: NAMES[found[0]], rest)
    source = f"{_DOCSTRINGS[module.stem]}\n{rest}"
    for command in (["check", "--select=I,UP028", "--fix", "--unsafe-fixes", "--quiet"], ["format"]):
        source = _ruff(source, TWINS[module], *command)
    return source


def _ruff(source: str, path: Path, *command: str) -> str:
    arguments = [sys.executable, "-m", "ruff", *command, f"--stdin-filename={path}", "-"]
    return subprocess.run(arguments, input=source, capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Write them anew."""
    for module, twin in TWINS.items():
        twin.write_text(synchronous(module), "utf-8")


if __name__ == "__main__":
    main()
