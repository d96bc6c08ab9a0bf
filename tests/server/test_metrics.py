"""Metrics: what a settled call adds, and what is read when it is asked for."""

import sys
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from legato.policy.ledger import Row
from legato.server.metrics import Gauge, Metrics
from legato.store.live import Crossed

ROUTES = {"smol": "smol", "claude-x": "claude-*"}


def row(**fields: Any) -> Row:
    return Row(**{"id": "chatcmpl-1", "received": 0.0, "outcome": "complete"} | fields)


def samples(metrics: Metrics) -> dict[str, float]:
    found = text_string_to_metric_families(metrics.render().decode())
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for family in found
        for sample in family.samples
        if "_bucket" not in sample.name and "_created" not in sample.name
    }


def test_a_call_is_counted_once() -> None:
    metrics = Metrics(ROUTES.get)
    usual = {"route": "smol", "deployments": "a,b", "front": "messages", "key": "key_1"}
    metrics.observe(
        row(**usual, prompt_tokens=7, completion_tokens=3, cost=0.25, ttft=0.5, duration=2.0)
    )
    metrics.observe(row(**usual, outcome="failed", prompt_tokens=1, duration=1.0))
    found = samples(metrics)
    where = ["b", "messages", "smol"]
    assert found[f"legato_calls_total{sorted([*where, 'complete'])}"] == 1
    assert found[f"legato_calls_total{sorted([*where, 'failed'])}"] == 1
    assert found[f"legato_tokens_total{sorted([*where, 'prompt'])}"] == 8
    assert found[f"legato_tokens_total{sorted([*where, 'completion'])}"] == 3
    assert found[f"legato_cost_dollars_total{where}"] == 0.25
    assert found[f"legato_first_token_seconds_count{where}"] == 1
    assert found[f"legato_call_seconds_sum{where}"] == 3.0
    assert "key_1" not in metrics.render().decode()


@pytest.mark.parametrize(
    ("asked", "shown"), [("claude-x", "claude-*"), ("anything", "none"), (None, "none")]
)
def test_a_model_is_no_label(asked: str | None, shown: str) -> None:
    metrics = Metrics(ROUTES.get)
    metrics.observe(row(route=asked))
    assert f"legato_calls_total{sorted(['chat', 'complete', 'none', shown])}" in samples(metrics)


def test_labels_are_as_many_as_what_is_configured() -> None:
    metrics = Metrics(ROUTES.get)
    metrics.observe(row(route="model 0", session="s0"))
    lines = len(metrics.render().splitlines())
    for number in range(1, 100):
        metrics.observe(row(route=f"model {number}", session=f"s{number}", agent=f"a{number}"))
    assert len(metrics.render().splitlines()) == lines


def test_gauges_are_read_when_they_are_asked_for() -> None:
    number = 1.0
    gauge = Gauge("open_streams", "Streams.", ("route",), lambda: [(("smol",), number)])
    metrics = Metrics(ROUTES.get, [gauge])
    assert samples(metrics)["legato_open_streams['smol']"] == 1
    number = 2.0
    assert samples(metrics)["legato_open_streams['smol']"] == 2


def test_a_fold_is_cheap_in_calls() -> None:
    """Nothing is looked up by labels once they are known."""
    metrics, calls = Metrics(ROUTES.get), 0
    metrics.observe(row(route="smol", deployments="a", duration=1.0))

    def profile(frame: Any, event: str, _: Any) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_name == "labels"

    sys.setprofile(profile)
    metrics.observe(row(route="smol", deployments="a", duration=1.0))
    sys.setprofile(None)
    assert calls == 0


def test_thresholds_of_budgets_are_counted() -> None:
    metrics = Metrics(ROUTES.get)
    for percent in (50, 80, 50):
        metrics.crossed(Crossed("owner:team:usd:2026-11", "budget_usd", percent, 1.0, 2.0))
    found = samples(metrics)
    assert found["legato_budget_alerts_total['50', 'usd']"] == 2
    assert found["legato_budget_alerts_total['80', 'usd']"] == 1
    assert "team" not in metrics.render().decode()
