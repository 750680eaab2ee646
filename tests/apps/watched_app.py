"""An application with a live stream that is flooded, served in the way that the second argument names."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from taskflow_otel import TaskAdmin, TaskManager, task_log

stop: Callable[[], None]
"""How this process stops its server without a signal, where it can."""


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    sys.stdout.write("the lifespan has ended\n")
    sys.stdout.flush()


manager = TaskManager()
app = FastAPI(lifespan=lifespan)
TaskAdmin(app, manager)


@manager.task()
async def talk() -> None:
    """Say more than the buffers of a connection take."""
    for _ in range(40):
        for _ in range(20):
            task_log("x" * 10_000)
        await asyncio.sleep(0.02)


@app.post("/flood")
async def flood() -> str:
    """Start a task that floods the live stream."""
    return await manager.enqueue(talk)


@app.get("/hold")
async def hold(until: Path) -> str:
    """Answer once this file is gone."""
    sys.stdout.write("holding\n")
    sys.stdout.flush()
    while until.exists():
        await asyncio.sleep(0.02)
    return "let go"


@app.post("/stop")
async def stop_without_a_signal() -> None:
    """Stop the server as an application does that runs it itself."""
    stop()


def own_handler(port: int) -> None:
    uvicorn_server(port).run()


def wrapped_handler(port: int) -> None:
    class Wrapping(uvicorn.Server):
        async def startup(self, sockets: object = None) -> None:
            await super().startup()
            inner = self.handle_exit
            signal.signal(signal.SIGTERM, lambda number, frame: inner(number, frame))

    Wrapping(uvicorn_server(port).config).run()


def handler_of_the_loop(port: int) -> None:
    server = uvicorn_server(port)

    async def main() -> None:
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, setattr, server, "should_exit", True)
        await serving

    asyncio.run(main())


def thread(port: int) -> None:
    server = uvicorn_server(port)

    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    signal.signal(signal.SIGTERM, stop)
    running = threading.Thread(target=server.run)
    running.start()
    running.join()


def uvicorn_without_a_signal(port: int) -> None:
    global stop
    server = uvicorn_server(port)

    def stop() -> None:
        server.should_exit = True

    server.run()


def hypercorn(port: int, *, workers: int = 1) -> None:
    from hypercorn.run import run

    config = hypercorn_config(port)
    config.application_path = "tests.apps.watched_app:app"
    config.workers = workers
    run(config)


def hypercorn_in_one_process(port: int) -> None:
    hypercorn(port, workers=0)


def hypercorn_in_a_thread(port: int) -> None:
    from hypercorn.asyncio import serve

    stopped = threading.Event()

    async def told() -> None:
        while not stopped.is_set():
            await asyncio.sleep(0.01)

    def run() -> None:
        asyncio.run(serve(app, hypercorn_config(port), shutdown_trigger=told))  # type: ignore[arg-type]  # any app

    signal.signal(signal.SIGTERM, lambda number, frame: stopped.set())
    running = threading.Thread(target=run)
    running.start()
    running.join()


def hypercorn_without_a_signal(port: int) -> None:
    from hypercorn.asyncio import serve

    async def main() -> None:
        global stop
        stopped = asyncio.Event()
        stop = stopped.set
        await serve(app, hypercorn_config(port), shutdown_trigger=stopped.wait)  # type: ignore[arg-type]  # any app

    asyncio.run(main())


def granian(port: int, *, loop: str = "auto") -> None:
    from granian import Granian
    from granian.constants import Interfaces, Loops

    target = "tests.apps.watched_app:app"
    Granian(target, port=port, interface=Interfaces.ASGI, loop=Loops(loop)).serve()


def granian_on_asyncio(port: int) -> None:
    granian(port, loop="asyncio")


def granian_without_a_signal(port: int) -> None:
    from granian.constants import Interfaces
    from granian.server.embed import Server

    async def main() -> None:
        global stop
        server = Server(app, port=port, interface=Interfaces.ASGI)
        stop = server.stop
        await server.serve()

    asyncio.run(main())


WAYS = {
    "uvicorn's own handler": own_handler,
    "a wrapped handler": wrapped_handler,
    "a handler of the loop": handler_of_the_loop,
    "a thread": thread,
    "hypercorn": hypercorn,
    "hypercorn in one process": hypercorn_in_one_process,
    "hypercorn in a thread": hypercorn_in_a_thread,
    "granian": granian,
    "granian on asyncio": granian_on_asyncio,
}
"""Each stops at SIGTERM."""
UVICORN = {own_handler, wrapped_handler, handler_of_the_loop, thread}

UNSIGNALLED = {
    "uvicorn, told by a flag": uvicorn_without_a_signal,
    "hypercorn, told by a trigger": hypercorn_without_a_signal,
    "granian, told by a call": granian_without_a_signal,
}
"""Each stops at `POST /stop`."""

HELD = {granian, granian_on_asyncio}
"""A worker of these can stand still forever if its last connection is one that was cut (docs/production/deploy.md)."""


def uvicorn_server(port: int) -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))


def hypercorn_config(port: int):  # type: ignore[no-untyped-def]  # imported where it is used
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    return config


if __name__ == "__main__":
    # Where a server raises the signal again after its end, that is the end.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    {**WAYS, **UNSIGNALLED}[sys.argv[2]](int(sys.argv[1]))
    sys.stdout.write("stopped in order\n")
