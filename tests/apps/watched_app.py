"""An application with a live stream that is flooded, served in the way that the second argument names."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from types import FrameType

import uvicorn
from fastapi import FastAPI

from taskflow_otel import TaskAdmin, TaskManager, task_log

manager = TaskManager()
app = FastAPI()
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


def serve(port: int, way: str) -> None:
    """Serve until SIGTERM, which reaches the server in the given way."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    if way == "uvicorn's own handler":
        server.run()
    elif way == "a wrapped handler":

        class Wrapping(uvicorn.Server):
            async def startup(self, sockets: object = None) -> None:
                await super().startup()
                inner = self.handle_exit
                signal.signal(signal.SIGTERM, lambda number, frame: inner(number, frame))

        Wrapping(server.config).run()
    elif way == "a handler of the loop":

        async def main() -> None:
            serving = asyncio.create_task(server.serve())
            while not server.started:
                await asyncio.sleep(0.01)
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, setattr, server, "should_exit", True)
            await serving

        asyncio.run(main())
    else:

        def stop(number: int, frame: FrameType | None) -> None:
            server.should_exit = True

        signal.signal(signal.SIGTERM, stop)
        thread = threading.Thread(target=server.run)
        thread.start()
        thread.join()


if __name__ == "__main__":
    # Where uvicorn raises the signal again after its end, that is the end.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    serve(int(sys.argv[1]), sys.argv[2])
    sys.stdout.write("stopped in order\n")
