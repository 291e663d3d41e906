"""Alert rules and the dashboard ask for figures that the service has, in words that Prometheus reads."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

FOLDER = Path(__file__).parents[2] / "docker" / "monitoring"
ALERTS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
PANELS: list[dict[str, Any]] = json.loads((FOLDER / "grafana-dashboard.json").read_text())["panels"]
EXPRESSIONS = {alert["alert"]: alert["expr"] for alert in ALERTS} | {
    f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]
}
for file in (FOLDER.parent / "kubernetes" / "keda").glob("worker-*.yaml"):
    (trigger,) = yaml.safe_load(file.read_text())["spec"]["triggers"]
    EXPRESSIONS[file.stem] = trigger["metadata"]["query"]


@pytest.fixture
def figures(app: FastAPI, client: TestClient) -> dict[str, list[dict[str, str]]]:
    """The labels of every sample, by name, of a service that has had requests."""
    client.get("/v1/jobs")
    client.get("/v1/jobs/unknown")
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(generate_latest(app.state.metrics).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def parts(node: Any) -> Iterator[Any]:
    """A parsed expression and all that it is made of."""
    yield node
    if isinstance(node, promql_parser.Call):
        below = node.args
    elif isinstance(node, promql_parser.BinaryExpr):
        below = [node.lhs, node.rhs]
    elif isinstance(node, promql_parser.AggregateExpr | promql_parser.ParenExpr | promql_parser.UnaryExpr):
        below = [node.expr]
    elif isinstance(node, promql_parser.MatrixSelector):
        below = [node.vector_selector]
    else:
        below = []
    for part in below:
        yield from parts(part)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_asks_for_what_there_is(name: str, figures: dict[str, list[dict[str, str]]]) -> None:
    nodes = list(parts(promql_parser.parse(EXPRESSIONS[name])))
    selectors = [node for node in nodes if isinstance(node, promql_parser.VectorSelector)]
    assert selectors
    labels: set[str] = set()
    for selector in selectors:
        samples = figures[selector.name]
        labels |= set(samples[0])
        for matcher in selector.matchers.matchers:
            values = {sample[matcher.name] for sample in samples}
            if matcher.op == promql_parser.MatchOp.Equal and matcher.name != "status":
                assert matcher.value in values
            if matcher.op == promql_parser.MatchOp.Re:
                assert set(matcher.value.split("|")) <= values
    grouped = [node.modifier for node in nodes if isinstance(node, promql_parser.AggregateExpr) and node.modifier]
    assert {label for modifier in grouped for label in modifier.labels} <= labels


def test_every_alert_says_what_to_do() -> None:
    assert all(alert["annotations"]["summary"] and alert["annotations"]["action"] for alert in ALERTS)
    assert {alert["labels"]["severity"] for alert in ALERTS} <= {"warning", "critical"}


def test_prometheus_reads_the_rules_and_a_service_of_the_compose_file() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert all((FOLDER / file).is_file() for file in config["rule_files"])
    compose = yaml.safe_load((FOLDER.parents[1] / "docker-compose.yml").read_text())
    (target,) = config["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target.partition(":")[0] in compose["services"]
