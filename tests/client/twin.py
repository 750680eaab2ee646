"""The synchronous client, written from the asynchronous one.

python -m tests.client.twin        # write taskflow_otel/client/sync.py anew
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[2] / "taskflow_otel" / "client"
TWIN = CLIENT / "sync.py"
NAMES = {
    "AsyncClient": "Client",
    "AsyncGenerator": "Generator",
    "AsyncIterator": "Iterator",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aclose": "close",
    "aiter_bytes": "iter_bytes",
    "aread": "read",
    "asynccontextmanager": "contextmanager",
    "asyncio": "time",
}
"""The names that differ, each with its counterpart."""
_DOCSTRING = '"""The client for programs without asyncio, written from `client/aio.py`: change that one."""'


def synchronous() -> str:
    """The source of the synchronous client."""
    _, rest = (CLIENT / "aio.py").read_text("utf-8").split("\n", 1)
    rest = re.sub(r"\basync (def|with|for)\b", r"\1", rest)
    rest = re.sub(r"\bawait ", "", rest)
    rest = re.sub(rf"\b(?:{'|'.join(NAMES)})\b", lambda found: NAMES[found[0]], rest)
    source = f"{_DOCSTRING}\n{rest}"
    for command in (["check", "--select=I,UP028", "--fix", "--unsafe-fixes", "--quiet"], ["format"]):
        source = _ruff(source, *command)
    return source


def _ruff(source: str, *command: str) -> str:
    arguments = [sys.executable, "-m", "ruff", *command, f"--stdin-filename={TWIN}", "-"]
    return subprocess.run(arguments, input=source, capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Write it anew."""
    TWIN.write_text(synchronous(), "utf-8")


if __name__ == "__main__":
    main()
