"""What names a process to a collector is its own, after a fork too."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry.sdk.resources import Resource

from taskflow_otel.exporters.otel import setup
from taskflow_otel.exporters.otel.resource import INSTANCE_ID, ProcessResource

FORKED = """
import os
from opentelemetry.sdk.resources import Resource
from taskflow_otel.exporters.otel.resource import INSTANCE_ID, ProcessResource

resource = ProcessResource(Resource({"service.name": "shop"}))
os.write(1, f"{resource.attributes[INSTANCE_ID]} {resource.attributes['service.name']}\\n".encode())
for _ in range(2):
    if os.fork() == 0:
        for _ in range(2):
            os.write(1, f"{resource.attributes[INSTANCE_ID]} {resource.attributes['service.name']}\\n".encode())
        os._exit(0)
    os.wait()
"""


def test_each_forked_process_has_an_instance_id_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True)
    ids, names = zip(*(line.split() for line in done.stdout.splitlines()), strict=True)
    assert len(ids) == 5
    assert len(set(ids)) == 3
    assert set(names) == {"shop"}


def test_the_rest_of_a_resource_is_what_was_described() -> None:
    described = Resource({"service.name": "shop", "a": "b"}, "https://schema")
    resource = ProcessResource(described)
    assert {**resource.attributes, INSTANCE_ID: ""} == {**described.attributes, INSTANCE_ID: ""}
    assert resource.schema_url == "https://schema"


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_an_instance_id_that_was_given_stays(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {INSTANCE_ID: "mine"}
    if by == "environment":
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"{INSTANCE_ID}=mine")
        given = {}
    assert setup.make_resource("shop", given).attributes[INSTANCE_ID] == "mine"
