"""The REST API as a whole."""

from __future__ import annotations

import httpx


async def test_every_documented_operation_names_its_errors_and_their_model(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if path.startswith("/tasks")
    ]
    assert len(operations) >= 18
    for path, method, operation in operations:
        assert {"401", "503"} <= set(operation["responses"]), (path, method)
        if "{task_id}" in path:
            assert "404" in operation["responses"]
        for status, response in operation["responses"].items():
            if status.startswith("4"):
                schema = response["content"]["application/json"]["schema"]
                assert schema["$ref"].endswith("/ErrorOut"), (path, method, status)
