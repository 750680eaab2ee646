"""Every expression returns data from a real Prometheus that scrapes a real, loaded app; exemplars lead to traces."""

from __future__ import annotations

import math
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import yaml

from tests.dashboards.expressions import (
    DASHBOARDS,
    QUERIES,
    RELEASES,
    RULE_EXPRESSIONS,
    RULES,
    STACK,
    Expression,
    operands,
)
from tests.otlp import OtlpReceiver
from tests.procs import AppProcess
from tests.servers import PrometheusServer, find_binary
from tests.waiting import wait_until

WINDOW = "10s"
PLACE = {"cluster": "test", "namespace": "shop"}
"""What a Prometheus in Kubernetes adds to each series."""

RELEASE_OPERANDS = sorted({operands(one.parse())[0] for one in RELEASES})
RULE_OPERANDS = sorted({(str(rule), part) for rule in RULE_EXPRESSIONS for part in operands(rule.parse())})
VARIABLES = [
    pytest.param(variable["query"]["query"], id=f"{name}-{variable['name']}")
    for name, board in DASHBOARDS.items()
    for variable in board["templating"]["list"]
    if variable["type"] == "query" and variable["datasource"]["type"] == "prometheus"
]


@dataclass(frozen=True, slots=True)
class Live:
    """The app, the Prometheus that scrapes it by the committed configuration, and the receiver of its traces."""

    app: AppProcess
    prometheus: PrometheusServer
    receiver: OtlpReceiver
    client: httpx.Client

    def get(self, path: str, **parameters: str | float) -> Any:
        answer = self.client.get(f"{self.prometheus.url}/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def values(self, expression: str) -> list[float]:
        """The finite values of an instant vector."""
        found = [float(series["value"][1]) for series in self.get("query", query=expression)["result"]]
        return [value for value in found if math.isfinite(value)]

    def must_have(self, expression: str) -> None:
        """Wait until an expression returns data."""
        wait_until(lambda: bool(self.values(expression)), f"data of {expression}", interval=0.2)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    directory = tmp_path_factory.mktemp("loaded")
    config = yaml.safe_load((STACK / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    with (
        OtlpReceiver() as receiver,
        AppProcess(
            "tests.dashboards.loaded_app:app",
            directory,
            env={"APP_DB": str(directory / "tasks.db"), **receiver.environment},
        ) as app,
    ):
        files = {name: (STACK / "prometheus" / name).read_text() for name in RULES}
        files["targets.yml"] = yaml.safe_dump([{"targets": [f"127.0.0.1:{app.port}"], "labels": PLACE}])
        with PrometheusServer(yaml.safe_dump(config), files=files) as prometheus, httpx.Client(timeout=30) as client:
            yield Live(app, prometheus, receiver, client)


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_a_panel_of_a_dashboard_has_data(live: Live, query: Expression) -> None:
    live.must_have(query.filled(WINDOW))


@pytest.mark.parametrize(
    ("rule", "part"), RULE_OPERANDS, ids=[f"{rule}-{n}" for n, (rule, _) in enumerate(RULE_OPERANDS)]
)
def test_what_a_rule_looks_at_has_data(live: Live, rule: str, part: str) -> None:
    live.must_have(part)


@pytest.mark.parametrize("operand", RELEASE_OPERANDS)
def test_a_mark_of_a_release_has_data(live: Live, operand: str) -> None:
    live.must_have(operand)


@pytest.mark.parametrize("query", VARIABLES)
def test_a_variable_of_a_dashboard_has_values(live: Live, query: str) -> None:
    [(selector, label)] = re.findall(r"^label_values\((.+), (\w+)\)$", query)
    match = Expression("", selector).filled(WINDOW)
    wait_until(
        lambda: bool(live.get(f"label/{label}/values", **{"match[]": match})), f"values of {query}", interval=0.2
    )


def test_every_rule_is_evaluated_without_an_error(live: Live) -> None:
    def health() -> set[str]:
        return {rule["health"] for group in live.get("rules")["groups"] for rule in group["rules"]}

    wait_until(lambda: "unknown" not in health(), "the evaluation of every rule", interval=0.2)
    assert health() == {"ok"}


@pytest.mark.parametrize("query", [query for query in QUERIES if query.exemplar], ids=str)
def test_an_exemplar_leads_to_a_trace_that_was_exported(live: Live, query: Expression) -> None:
    def traces() -> set[str]:
        now = time.time()
        found = live.get("query_exemplars", query=query.filled(WINDOW), start=now - 600, end=now + 60)
        return {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]}

    def exported() -> set[str]:
        return {span.trace_id for span in list(live.receiver.spans)}

    # The newest exemplars may point to spans that are still on their way.
    wait_until(lambda: bool(traces() & exported()), "an exemplar of an exported trace", interval=0.2)
    seen = traces()
    wait_until(lambda: seen <= exported(), "the traces of all exemplars", interval=0.2)


def test_promtool_finds_nothing_to_object_to_in_the_metrics(live: Live) -> None:
    text = live.client.get(f"{live.app.url}/tasks/metrics", headers={"Accept": "text/plain"}).raise_for_status().text
    assert "# TYPE taskflow_tasks_enqueued_total counter" in text
    done = subprocess.run(
        [find_binary("promtool", "prometheus"), "check", "metrics"],
        input=text, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
