"""A route on a real server under `wrk`: requests per second and latency."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SCRIPT = """
wrk.method = "{method}"
done = function(summary, latency, requests)
  io.write(string.format('{{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "worst": %d, "failed": %d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write
    + summary.errors.timeout))
end
"""
_CLIENTS = 32
_LONGEST_START = 30.0


async def http(case: str, seconds: int, directory: Path) -> dict[str, Any]:
    """The route that adds one task, for so many seconds after a short start."""
    async with Served(case, directory) as served:
        await served.wrk("POST", "/", 1, _CLIENTS)
        return await served.wrk("POST", "/", seconds, _CLIENTS)


async def unrelated(case: str, seconds: int, directory: Path) -> dict[str, Any]:
    """A route that adds nothing, asked by one client while others add tasks as fast as they can."""
    async with Served(case, directory) as served:
        storm = asyncio.create_task(served.wrk("POST", "/", seconds + 2, _CLIENTS))
        await asyncio.sleep(1)
        found = await served.wrk("GET", "/plain", seconds, 1)
        return {**found, "storm": await storm}


class Served:
    """A server process with one application."""

    def __init__(self, case: str, directory: Path) -> None:
        self._case = case
        self._directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    async def __aenter__(self) -> Served:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.served", self._case, str(self.port), str(self._directory)),
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(_LONGEST_START):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except ConnectionError:
                    if self._process.returncode is not None:
                        raise RuntimeError(f"the server of {self._case} did not start") from None
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return self

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()
        await self._process.wait()

    async def wrk(self, method: str, path: str, seconds: int, clients: int) -> dict[str, Any]:
        """Ask for a while; raises `RuntimeError` if a request failed."""
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
            script.write(_SCRIPT.format(method=method))
            script.flush()
            found = json.loads(
                (await _output(["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "-s", script.name,
                                f"http://127.0.0.1:{self.port}{path}"])).splitlines()[-1]
            )  # fmt: skip
        if found["failed"]:
            raise RuntimeError(f"{found['failed']} of {found['requests']} requests of {self._case} failed")
        return {
            "requests": found["requests"],
            "rate": found["requests"] / found["microseconds"] * 1e6,
            "p50_ms": found["p50"] / 1e3,
            "p99_ms": found["p99"] / 1e3,
            "worst_ms": found["worst"] / 1e3,
        }


async def _output(command: Sequence[str]) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    return output.decode()


def main() -> None:
    """Serve a case of `benchmarks.workloads.routes` on a port."""
    import uvicorn

    from benchmarks.workloads.routes import application

    case, port, directory = sys.argv[1:]
    app, _ = application(case, Path(directory))
    uvicorn.run(app, port=int(port), log_level="error", access_log=False)
    os._exit(0)


if __name__ == "__main__":
    main()
