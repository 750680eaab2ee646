"""The configuration of the stack holds together: every file, name, port and component that one part names is there."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from examples import demo
from tests.dashboards.expressions import DASHBOARDS, ROOT, STACK

COMPOSE_FILE = ROOT / "docker-compose.observability.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
COLLECTOR: dict[str, Any] = yaml.safe_load((STACK / "otel-collector.yaml").read_text())
PROVISIONING = STACK / "grafana/provisioning"
SOURCES: list[dict[str, Any]] = yaml.safe_load((PROVISIONING / "datasources/datasources.yaml").read_text())[
    "datasources"
]
YAML_FILES = sorted([COMPOSE_FILE, *STACK.rglob("*.yml"), *STACK.rglob("*.yaml")])
# The components of the Collector's own repository that the stack is limited to, by their names since 0.144.
CORE = {
    "receivers": {"otlp"},
    "processors": {"memory_limiter", "batch"},
    "exporters": {"debug", "otlp_grpc", "otlp_http"},
}

each_service = pytest.mark.parametrize("name", SERVICES)


class OnlyOnce(yaml.SafeLoader):  # type: ignore[misc]  # published without types
    """Refuses a mapping with the same key twice, of which YAML silently keeps the last."""


def _mapping(loader: OnlyOnce, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"a key is there twice: {keys} {node.start_mark}"
    mapping: dict[Any, Any] = loader.construct_mapping(node)
    return mapping


OnlyOnce.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def bind_mounts(service: dict[str, Any]) -> list[tuple[str, str]]:
    """Paths of the checkout that a service sees, and where."""
    parts = [volume.split(":") for volume in service.get("volumes", [])]
    return [(source, target) for source, target, *_ in parts if source.startswith("./")]


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_yaml_file_has_no_key_twice(path: Any) -> None:
    assert yaml.load(path.read_text(), Loader=OnlyOnce)  # a subclass of the safe loader


def test_the_compose_file_follows_the_compose_specification() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE_FILE)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_stack_is_the_app_and_what_shows_it() -> None:
    assert SERVICES.keys() == {"app", "otel-collector", "jaeger", "prometheus", "grafana", "loki"}


@each_service
def test_a_service_is_pinned_checked_and_open_to_this_machine_only(name: str) -> None:
    service = SERVICES[name]
    image = service.get("image") or re.findall(r"^FROM (\S+)", service["build"]["dockerfile_inline"])[0]
    assert re.search(r":v?\d+\.\d+\.\d+", image)
    assert service["healthcheck"]["test"][0] == "CMD"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@each_service
def test_every_file_that_a_service_mounts_or_copies_is_there(name: str) -> None:
    mounted = [source for source, _ in bind_mounts(SERVICES[name])]
    copied = re.findall(r"^COPY (.+) \S+$", SERVICES[name].get("build", {}).get("dockerfile_inline", ""), re.MULTILINE)
    paths = mounted + [path for line in copied for path in line.split()]
    assert [path for path in paths if not (ROOT / path).exists()] == []


@each_service
def test_a_service_waits_for_services_that_exist_and_uses_volumes_that_are_declared(name: str) -> None:
    assert SERVICES[name].get("depends_on", {}).keys() <= SERVICES.keys()
    named = {volume.split(":")[0] for volume in SERVICES[name].get("volumes", []) if not volume.startswith("./")}
    assert named <= COMPOSE["volumes"].keys()


def test_the_app_exports_to_the_collector() -> None:
    endpoint = SERVICES["app"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert endpoint == "http://otel-collector:4318"
    assert COLLECTOR["receivers"]["otlp"]["protocols"]["http"]["endpoint"] == "0.0.0.0:4318"


@pytest.mark.parametrize("kind", CORE)
def test_the_collector_is_made_of_core_components_only(kind: str) -> None:
    assert {name.partition("/")[0] for name in COLLECTOR[kind]} <= CORE[kind]


@pytest.mark.parametrize("kind", CORE)
def test_the_collectors_pipelines_use_exactly_what_is_configured(kind: str) -> None:
    pipelines = COLLECTOR["service"]["pipelines"].values()
    assert {name for pipeline in pipelines for name in pipeline[kind]} == COLLECTOR[kind].keys()


def test_each_of_the_collectors_pipelines_limits_memory_first_and_batches_last() -> None:
    pipelines = COLLECTOR["service"]["pipelines"]
    assert pipelines.keys() == {"traces", "logs", "metrics"}
    assert {tuple(pipeline["processors"]) for pipeline in pipelines.values()} == {("memory_limiter", "batch")}


def test_every_address_in_the_configuration_is_that_of_a_service() -> None:
    exporters = COLLECTOR["exporters"].values()
    addresses = [exporter["endpoint"] for exporter in exporters if "endpoint" in exporter]
    addresses += [source["url"] for source in SOURCES]
    [targets] = yaml.safe_load((STACK / "prometheus/targets.yml").read_text())
    addresses += targets["targets"]
    hosts = {re.sub(r"^\w+://", "", address).partition(":")[0] for address in addresses}
    assert hosts == {"jaeger", "loki", "prometheus", "app"}


def test_grafana_leads_from_exemplars_and_log_lines_to_the_trace_and_back() -> None:
    sources = {source["uid"]: source for source in SOURCES}
    [exemplar] = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    [field] = sources["loki"]["jsonData"]["derivedFields"]
    assert (exemplar["name"], exemplar["datasourceUid"]) == ("trace_id", "jaeger")
    assert (field["matcherType"], field["matcherRegex"], field["datasourceUid"]) == ("label", "trace_id", "jaeger")
    assert sources["jaeger"]["jsonData"]["tracesToLogsV2"]["datasourceUid"] == "loki"


def test_grafana_reads_the_dashboards_from_where_they_are_mounted() -> None:
    mounts = {target: source for source, target in bind_mounts(SERVICES["grafana"])}
    [provider] = yaml.safe_load((PROVISIONING / "dashboards/dashboards.yaml").read_text())["providers"]
    assert mounts[provider["options"]["path"]] == "./dashboards/grafana"
    assert mounts["/etc/grafana/provisioning"] == "./dashboards/grafana/provisioning"
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.removeprefix(provider["options"]["path"] + "/").removesuffix(".json") in DASHBOARDS


def test_anonymous_viewers_may_follow_links_into_explore() -> None:
    # Grafana 12 gives a viewer `datasources:explore` with this setting only.
    environment = SERVICES["grafana"]["environment"]
    assert (environment["GF_AUTH_ANONYMOUS_ENABLED"], environment["GF_AUTH_ANONYMOUS_ORG_ROLE"]) == ("true", "Viewer")
    assert environment["GF_USERS_VIEWERS_CAN_EDIT"] == "true"


def test_the_app_listens_where_other_containers_and_the_published_port_reach_it() -> None:
    environment = SERVICES["app"]["environment"]
    assert environment["DEMO_HOST"] == "0.0.0.0"  # that is, of its container
    [port] = SERVICES["app"]["ports"]
    [targets] = yaml.safe_load((STACK / "prometheus/targets.yml").read_text())
    assert targets["targets"] == [f"app:{port.rpartition(':')[2]}"]
    assert "host.docker.internal:host-gateway" in SERVICES["prometheus"]["extra_hosts"]


def test_the_demo_has_a_schedule() -> None:
    assert [status.name for status in demo.task_manager.schedules()]


def test_prometheus_keeps_exemplars() -> None:
    assert "--enable-feature=exemplar-storage" in SERVICES["prometheus"]["command"]


def test_loki_keeps_the_attributes_of_log_records() -> None:
    config = yaml.safe_load((STACK / "loki.yaml").read_text())
    assert config["limits_config"]["allow_structured_metadata"] is True
    [period] = config["schema_config"]["configs"]
    assert (period["store"], period["schema"]) == ("tsdb", "v13")  # the least that keeps structured metadata


def test_no_dashboard_bears_the_id_of_a_database() -> None:
    assert [name for name, board in DASHBOARDS.items() if board.get("id") is not None] == []
