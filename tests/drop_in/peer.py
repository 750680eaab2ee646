"""The public surface of fastapi-taskflow, as committed data: names, parameters, fields, endpoints and answers.

    pip install fastapi-taskflow==0.12.1        # into an environment of its own
    python tests/drop_in/peer.py tests/drop_in/fastapi_taskflow.json

It runs in the environment of that package, so it imports nothing of this project.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Surface = dict[str, Any]


def parameters(call: Any) -> list[dict[str, Any]]:
    """The parameters of a call, without `self`; a default that is no plain value is given by its text."""
    found = []
    for one in inspect.signature(call).parameters.values():
        if one.name == "self":
            continue
        entry: dict[str, Any] = {"name": one.name, "kind": one.kind.name.lower()}
        if one.default is not one.empty:
            plain = one.default is None or isinstance(one.default, (bool, int, float, str))
            entry["default"] = one.default if plain else repr(one.default)
        found.append(entry)
    return found


def describe(thing: Any) -> Surface:
    """A class or function: how it is called, and its public members."""
    if not inspect.isclass(thing):
        return {"kind": "function", "async": inspect.iscoroutinefunction(thing), "parameters": parameters(thing)}
    surface: Surface = {"kind": "class", "errors": [base.__name__ for base in thing.__mro__ if _is_builtin_error(base)]}
    if issubclass(thing, enum.Enum):
        return surface | {"members": {member.name: member.value for member in thing}}
    surface["parameters"] = [] if issubclass(thing, BaseException) else parameters(thing.__init__)
    surface["fields"] = [field.name for field in dataclasses.fields(thing)] if dataclasses.is_dataclass(thing) else []
    surface["methods"], surface["properties"] = {}, []
    for name, member in inspect.getmembers(thing):
        if name.startswith("_") or not _is_own(thing, name):
            continue
        if isinstance(member, property):
            surface["properties"].append(name)
        elif callable(member):
            surface["methods"][name] = {
                "async": inspect.iscoroutinefunction(member),
                "parameters": parameters(member),
            }
    return surface


def _is_builtin_error(base: type) -> bool:
    return issubclass(base, Exception) and base.__module__ == "builtins"


def _is_own(thing: type, name: str) -> bool:
    """Whether a class of the package defines a member, and not what it inherits from."""
    return any(name in vars(base) for base in thing.__mro__ if base.__module__.startswith("fastapi_taskflow"))


def attributes(manager: Any) -> list[str]:
    """The public attributes of an object."""
    return sorted(name for name in vars(manager) if not name.startswith("_"))


def endpoints(app: Any, path: str) -> Iterator[dict[str, Any]]:
    """The endpoints of the administration, from the document of the application and from its routes."""
    documented = app.openapi()["paths"]
    for route in _routes(app.routes):
        for method in sorted(getattr(route, "methods", None) or ()):
            if method == "HEAD" or not route.path.startswith(path):
                continue
            operation = documented.get(route.path, {}).get(method.lower(), {})
            yield {
                "method": method,
                "path": route.path.removeprefix(path),
                "query": [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"],
            }


def _routes(routes: Any) -> Iterator[Any]:
    for route in routes:
        nested = getattr(route, "original_router", None)
        yield from _routes(nested.routes) if nested is not None else (route,)


def answers(client_of: Any, peer: Any) -> dict[str, list[str]]:
    """The fields of the JSON that each endpoint answers, seen in a run."""
    import time

    manager = peer.TaskManager(queues={"mail": peer.QueueConfig(concurrency=1)}, retry_replaces_original=False)
    app, client = client_of(manager)
    tasks_of_request = _depends(manager.get_tasks)

    @manager.task()  # type: ignore[untyped-decorator]  # an Any
    async def send(address: str) -> None:
        peer.task_log("sent")
        if address == "bad":
            raise ValueError(address)

    @app.post("/add")  # type: ignore[untyped-decorator]
    async def add(address: str, tasks: Any = tasks_of_request) -> str:
        return str(tasks.add_task(send, address))

    with client:

        def wait(task_id: str) -> None:
            while client.get(f"/tasks/{task_id}").json()["status"] in {"pending", "running"}:
                time.sleep(0.01)

        task_id = client.post("/add?address=bad").json()
        other = client.post("/add?address=bad").json()
        wait(task_id)
        wait(other)
        seen = {
            "GET ": client.get("/tasks").json()[0],
            "GET /{task_id}": client.get(f"/tasks/{task_id}").json(),
            "GET /metrics": client.get("/tasks/metrics").json(),
            "GET /queues": client.get("/tasks/queues").json()[0],
            "PATCH /queues/{queue_name}": client.patch("/tasks/queues/mail", json={"concurrency": 2}).json(),
            "POST /{task_id}/retry": client.post(f"/tasks/{task_id}/retry").json(),
            "POST /bulk-retry": client.post("/tasks/bulk-retry", json={"task_ids": [other]}).json(),
            "POST /retry-failed": client.post("/tasks/retry-failed?since=6h").json(),
            "GET /audit": client.get("/tasks/audit").json()[0],
            "DELETE /history": client.delete("/tasks/history?value=1&unit=min").json(),
        }
    return {name: sorted(answer) for name, answer in seen.items()}


def _depends(dependency: Any) -> Any:
    from fastapi import Depends

    return Depends(dependency)


def surface() -> Surface:
    """Everything, as JSON."""
    import fastapi
    import fastapi.testclient
    import fastapi_taskflow as peer

    def client_of(manager: Any) -> tuple[Any, Any]:
        app = fastapi.FastAPI()
        peer.TaskAdmin(app, manager)
        return app, fastapi.testclient.TestClient(app)

    app = fastapi.FastAPI()
    manager = peer.TaskManager()
    peer.TaskAdmin(app, manager, auth=("admin", "secret"))
    return {
        "package": "fastapi-taskflow",
        "version": peer.__version__,
        "names": {name: describe(getattr(peer, name)) for name in sorted(peer.__all__)},
        "manager": attributes(manager),
        "store": sorted(name for name in dir(manager.store) if not name.startswith("_")),
        "endpoints": sorted(endpoints(app, "/tasks"), key=lambda one: (one["path"], one["method"])),
        "answers": answers(client_of, peer),
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(surface(), indent=1) + "\n")
