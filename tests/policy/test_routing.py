"""Who is asked, in which order, who is left alone, and what is tried again: decided without I/O."""

import random
from collections import Counter

import pytest

from legato.core.errors import ApiError, UpstreamError, bad_gateway, gateway_timeout
from legato.policy.health import Health
from legato.policy.retry import RetryBudget, failure_kind
from legato.policy.routing import Route, Router


def router(route: Route, **health: Health) -> Router:
    return Router([route], health, random.Random(5).random)


def test_in_order() -> None:
    route = Route("m", ("a", "b", "c"))
    assert router(route).plan(route, 0.0) == ["a", "b", "c"]


def test_by_shares() -> None:
    route = Route("m", ("a", "b"), weights={"a": 3.0, "b": 1.0})
    plans = router(route)
    firsts = Counter(plans.plan(route, 0.0)[0] for _ in range(4000))
    assert firsts["a"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert all(sorted(plans.plan(route, 0.0)) == ["a", "b"] for _ in range(10))


def test_the_least_busy_first() -> None:
    route = Route("m", ("a", "b", "c"), strategy="least-busy", weights={"a": 1.0, "c": 4.0})
    health = {"a": Health(busy=1), "b": Health(busy=0), "c": Health(busy=2)}
    assert router(route, **health).plan(route, 0.0) == ["c", "b", "a"]


def test_the_fastest_first_and_old_news_fades() -> None:
    route = Route("m", ("a", "b"), strategy="fastest")
    health = {"a": Health(), "b": Health()}
    plans = router(route, **health)
    health["a"].record_first_token(0.0, 2.0)
    health["b"].record_first_token(0.0, 0.5)
    assert plans.plan(route, 0.0) == ["b", "a"]
    for _ in range(20):
        health["b"].record_failure(1.0)
    assert health["b"].score(1.0) > health["a"].score(1.0)
    health["b"].open_until = 0.0
    assert plans.plan(route, 1.0) == ["a", "b"]
    health["a"].record_first_token(600.0, 2.0)
    assert plans.plan(route, 600.0) == ["b", "a"], "what was long ago counts for nothing"


def test_one_that_nobody_has_tried_is_tried() -> None:
    route = Route("m", ("a", "b"), strategy="fastest")
    known = Health()
    known.record_first_token(0.0, 0.01)
    assert router(route, a=known, b=Health()).plan(route, 0.0) == ["b", "a"]


def test_a_breaker_opens_after_failures_in_a_row_and_one_call_probes() -> None:
    health = Health(open_after=3, open_seconds=10.0)
    for _ in range(2):
        health.begin(0.0)
        health.record_failure(0.0)
        health.end()
    health.record_success()
    for _ in range(2):
        health.record_failure(1.0)
    assert health.state(1.0) == "closed", "they were not in a row"
    health.record_failure(1.0)
    assert health.state(1.0) == "open"
    assert not health.allows(10.9)
    assert health.state(11.0) == "half-open"
    assert health.allows(11.0)
    assert health.begin(11.0), "the probe"
    assert not health.allows(11.0), "one at a time"
    health.record_failure(11.5, probe=True)
    health.end(probe=True)
    assert health.state(31.0) == "open", "the second time it is for twice as long"
    assert health.begin(31.6)
    health.record_first_token(31.6, 0.2, probe=True)
    assert health.state(31.6) == "closed"
    health.record_failure(32.0, probe=True)
    health.end(probe=True)
    assert health.state(32.0) == "open", "it had not got through an answer"


def test_a_probe_that_nobody_waited_for_leaves_the_door_open() -> None:
    health = Health(open_after=1, open_seconds=1.0)
    health.record_failure(0.0)
    health.end(probe=health.begin(2.0))
    assert health.allows(2.0)


def test_retry_after_is_honoured() -> None:
    health = Health(open_after=5)
    health.record_failure(0.0, retry_after=7.0)
    assert not health.allows(6.9)
    assert health.allows(7.0)
    health.record_failure(7.0, retry_after=1e9)
    assert health.allows(7.0 + 300)


def test_a_breaker_may_be_off() -> None:
    health = Health(open_after=0)
    for _ in range(50):
        health.record_failure(0.0, retry_after=9.0)
    assert health.allows(0.0)


def test_nobody_is_well() -> None:
    route = Route("m", ("a", "b"))
    health = {"a": Health(open_until=9.0), "b": Health(open_until=5.0)}
    with pytest.raises(ApiError) as caught:
        router(route, **health).plan(route, 1.0)
    assert (caught.value.status, caught.value.code) == (503, "no_deployment")
    assert caught.value.retry_after == 4.0
    health["b"].open_until = 0.0
    assert router(route, **health).plan(route, 1.0) == ["b"]


def test_longer_contexts() -> None:
    route = Route("m", ("a", "b", "c"), contexts={"a": 4096, "b": 131072, "c": 8192})
    assert route.with_longer_context("a") == ("c", "b")
    assert route.with_longer_context("b") == ()
    assert Route("m", ("a", "b"), contexts={"b": 9}).with_longer_context("a") == (), (
        "nobody knows a's"
    )


KINDS = {
    "upstream_unreachable": (502, "connection"),
    "upstream_rate_limited": (429, "busy"),
    "upstream_503": (503, "server"),
    "gpu_lost": (502, "server"),
    "rate_limit_exceeded": (429, "busy"),
    "upstream_first_token_timeout": (504, "timeout"),
    "upstream_empty": (502, "empty"),
    "upstream_401": (502, "configuration"),
    "upstream_tls": (502, "configuration"),
}


@pytest.mark.parametrize("code", KINDS)
def test_kinds_of_failure(code: str) -> None:
    status, wanted = KINDS[code]
    assert failure_kind(UpstreamError(status, code, "")) == wanted


def test_the_same_deployment_is_asked_again_after_longer_and_longer() -> None:
    budget = RetryBudget(9, 100.0, 100.0, lambda: 0.5)
    waits: list[float | None] = []
    for _ in range(3):
        budget.record_attempt("a")
        waits.append(budget.retry_delay("a", bad_gateway(""), 0.0))
    assert waits == [0.25, 0.5, None]
    assert budget.retry_delay("b", bad_gateway(""), 0.0) is not None, "each has a budget of its own"


def test_what_will_fail_again_is_not_asked_again() -> None:
    budget = RetryBudget(9, 100.0, 100.0)
    budget.record_attempt("a")
    assert budget.retry_delay("a", UpstreamError(502, "upstream_401", ""), 0.0) is None
    assert (
        budget.retry_delay("a", gateway_timeout("", code="upstream_first_token_timeout"), 0.0)
        is not None
    )
    assert (
        budget.retry_delay("a", gateway_timeout("", code="upstream_first_token_timeout"), 0.0)
        is None
    )


def test_nobody_waits_until_the_status_can_no_longer_be_told() -> None:
    budget = RetryBudget(9, 100.0, 5.0)
    budget.record_attempt("a")
    asked = UpstreamError(429, "upstream_rate_limited", "", retry_after=4.0)
    assert budget.retry_delay("a", asked, 0.0) == 4.0
    assert budget.retry_delay("a", asked, 2.0) is None


def test_attempts_and_time_run_out() -> None:
    budget = RetryBudget(2, 10.0, 10.0)
    budget.record_attempt("a")
    assert budget.allows("a", 9.9)
    assert not budget.allows("a", 10.0)
    assert budget.allows("b", 10.0), "it has not been asked"
    budget.record_attempt("b")
    assert not budget.allows("a", 0.0)
