"""The REST API as a whole."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import httpx
import pytest

from taskflow_otel.model.status import TaskStatus, Transition
from taskflow_otel.model.vocabulary import BarKind, ExecutorKind, InstanceKind, InstanceState, LogLevel, Reason, Source
from taskflow_otel.web.auth import Role
from tests.web.users import PROBES


async def test_every_documented_operation_names_its_errors_and_their_model(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if path.startswith("/tasks") and path not in PROBES
    ]
    assert len(operations) >= 18
    for path, method, operation in operations:
        assert {"401", "413", "421", "429", "503"} <= set(operation["responses"]), (path, method)
        if "{task_id}" in path:
            assert "404" in operation["responses"]
        for status, response in operation["responses"].items():
            if status.startswith("4"):
                assert list(response["content"]) == ["application/problem+json"]
                schema = response["content"]["application/problem+json"]["schema"]
                assert schema["$ref"].endswith("/ErrorOut"), (path, method, status)


@pytest.mark.parametrize(
    ("model", "field", "words"),
    [
        ("TaskOut", "status", TaskStatus),
        ("TaskOut", "reason", Reason),
        ("TaskOut", "source", Source),
        ("TaskOut", "executor", ExecutorKind),
        ("TimelineOut", "reason", Reason),
        ("TimelineOut", "transition", Transition),
        ("LogOut", "level", LogLevel),
        ("InstanceOut", "state", InstanceState),
        ("InstanceOut", "kind", InstanceKind),
        ("BarOut", "kind", BarKind),
        ("SessionOut", "role", Role),
    ],
)
async def test_the_schema_lists_the_words_that_a_field_can_hold(
    client: httpx.AsyncClient, model: str, field: str, words: type[StrEnum]
) -> None:
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    assert list(words) in enums(schemas[model]["properties"][field], schemas)


async def test_the_schema_lists_the_sources_to_filter_by(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    parameters = document["paths"]["/tasks"]["get"]["parameters"]
    [source] = [parameter["schema"] for parameter in parameters if parameter["name"] == "source"]
    assert enums(source, document["components"]["schemas"]) == [list(Source)]


def enums(schema: object, schemas: dict[str, Any]) -> list[list[str]]:
    """The enumerations in a schema and in those that it refers to."""
    match schema:
        case {"$ref": str(ref)}:
            return enums(schemas[ref.rpartition("/")[2]], schemas)
        case {"enum": list(words)}:
            return [words]
        case dict():
            return [found for part in schema.values() for found in enums(part, schemas)]
        case list():
            return [found for part in schema for found in enums(part, schemas)]
        case _:
            return []
