"""The example for Kubernetes: valid by the published schemas, and about paths, ports and variables that exist."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml
from opentelemetry import environment_variables as api_variables
from opentelemetry.sdk import environment_variables as sdk_variables

from taskflow_otel import TaskManager
from taskflow_otel.metrics.targets import VARIABLE
from tests.procs import ROOT, AppProcess

EXAMPLE = ROOT / "examples/kubernetes"
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all((EXAMPLE / "shop.yaml").read_text()))
BY_KIND = {document["kind"]: document for document in DOCUMENTS}
POD = BY_KIND["Deployment"]["spec"]["template"]
[CONTAINER] = POD["spec"]["containers"]
[ENDPOINT] = yaml.safe_load((EXAMPLE / "podmonitor.yaml").read_text())["spec"]["podMetricsEndpoints"]
DOCKERFILE = (EXAMPLE / "Dockerfile").read_text()
APP = (EXAMPLE / "app.py").read_text()
SECRETS = {"TASKS_SECRET_KEY": "x" * 32, "TASKS_PASSWORD": "correct horse", "TASKS_METRICS_TOKEN": "scrape-me"}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def variables() -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in CONTAINER["env"]}


@pytest.mark.parametrize("version", ["1.28", "1.37"])
@pytest.mark.parametrize("kind", BY_KIND)
def test_each_object_is_valid_by_the_schema_of_its_kind_without_unknown_fields(kind: str, version: str) -> None:
    assert kubernetes_validate.validate(BY_KIND[kind], version, strict=True) == version


def test_the_objects_belong_together() -> None:
    labels = POD["metadata"]["labels"]
    selectors = [BY_KIND[kind]["spec"]["selector"] for kind in ("Deployment", "PodDisruptionBudget")]
    assert [selector["matchLabels"] for selector in selectors] == [labels, labels]
    assert BY_KIND["Service"]["spec"]["selector"] == labels
    monitor = yaml.safe_load((EXAMPLE / "podmonitor.yaml").read_text())["spec"]
    assert monitor["selector"]["matchLabels"] == labels
    assert monitor["jobLabel"] in labels
    names = {port["name"] for port in CONTAINER["ports"]}
    assert {BY_KIND["Service"]["spec"]["ports"][0]["targetPort"], ENDPOINT["port"]} <= names
    assert {CONTAINER[probe]["httpGet"]["port"] for probe in PROBES} <= names


def test_the_pod_monitor_has_only_fields_that_the_operator_knows() -> None:
    # No package has its schema; these are of the definition in the operator 0.91.
    monitor = yaml.safe_load((EXAMPLE / "podmonitor.yaml").read_text())
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    assert monitor["spec"].keys() == {"selector", "jobLabel", "podMetricsEndpoints"}
    assert ENDPOINT.keys() == {"port", "path", "interval", "authorization"}
    assert ENDPOINT["authorization"].keys() == {"type", "credentials"}
    assert ENDPOINT["authorization"]["credentials"].keys() == {"name", "key"}
    assert re.fullmatch(r"[0-9]+s", ENDPOINT["interval"])


def test_the_server_listens_where_the_pod_says() -> None:
    [port] = CONTAINER["ports"]
    assert f'"--port", "{port["containerPort"]}"' in DOCKERFILE
    assert '"--host", "0.0.0.0"' in DOCKERFILE
    assert POD["metadata"]["annotations"]["prometheus.io/port"] == str(port["containerPort"])
    assert POD["metadata"]["annotations"]["prometheus.io/path"] == ENDPOINT["path"]


def test_the_pod_gets_more_time_to_stop_than_all_its_parts_take() -> None:
    pause = float(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    server = float(re.findall(r'"--timeout-graceful-shutdown", "(\d+)"', DOCKERFILE)[0])
    [drain] = [float(value) for value in re.findall(r"^SHUTDOWN_TIMEOUT = ([\d.]+)$", APP, re.MULTILINE)]
    grace = float(inspect.signature(TaskManager).parameters["cancel_grace"].default)
    assert POD["spec"]["terminationGracePeriodSeconds"] >= pause + server + drain + grace + 5


def test_each_variable_is_read_by_the_application_the_library_or_opentelemetry() -> None:
    read = set(re.findall(r'os\.environ(?:\.get\(|\[)"(\w+)"', APP))
    known = {name for module in (api_variables, sdk_variables) for name in dir(module) if name.isupper()}
    given = variables()
    # The pod's name is only for the other variables.
    assert given.keys() - read - known == {VARIABLE, "POD_NAME"}
    assert read <= given.keys()
    for name in ("DATABASE_URL", *SECRETS):
        key = given[name]["valueFrom"]["secretKeyRef"]["key"]
        assert f"--from-literal={key}=" in (EXAMPLE / "shop.yaml").read_text()
        assert "value" not in given[name]
    references = re.findall(r"\$\((\w+)\)", str([entry.get("value") for entry in CONTAINER["env"]]))
    order = list(given)
    assert all(order.index(name) < order.index(VARIABLE) or name == "APP_RELEASE" for name in references)


def test_the_application_answers_probes_and_scrapes_as_the_objects_ask(postgres_url: str, tmp_path: Path) -> None:
    release = variables()["APP_RELEASE"]["value"]
    env = {"DATABASE_URL": postgres_url, "APP_RELEASE": release, VARIABLE: "shop-0", **SECRETS}
    env["OTEL_TRACES_EXPORTER"] = env["OTEL_METRICS_EXPORTER"] = env["OTEL_LOGS_EXPORTER"] = "none"
    with AppProcess("examples.kubernetes.app:app", tmp_path, env=env) as app, httpx.Client(base_url=app.url) as client:
        # By the address of the pod, without login, as the kubelet asks.
        host = {"Host": "10.0.0.7:8000"}
        for probe in PROBES:
            assert client.get(CONTAINER[probe]["httpGet"]["path"], headers=host).status_code == 200
        assert client.get(ENDPOINT["path"], headers=host).status_code == 401
        assert (ENDPOINT["authorization"]["type"], ENDPOINT["authorization"]["credentials"]["key"]) == (
            "Bearer",
            variables()["TASKS_METRICS_TOKEN"]["valueFrom"]["secretKeyRef"]["key"],
        )
        token = {**host, "Authorization": f"Bearer {SECRETS['TASKS_METRICS_TOKEN']}"}
        page = client.get(ENDPOINT["path"], headers=token).raise_for_status().text
        assert f'release="{release}"' in page
        assert 'taskflow_slo_objective_ratio{task="send_receipt"} 0.999' in page
        assert client.post("/orders/7").status_code == 202
