"""Times of a stream: what is measured, and how exact percentiles are."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legato.core.timings import Timings

QUICK = settings(deadline=None, database=None, max_examples=300)
EXACT = 1.25  # the documented bound of a percentile


def metered(gaps: list[float], *, received: float = 0.0, first: float = 0.0) -> Timings:
    meter = Timings(received)
    now = first
    meter.content(now)
    for gap in gaps:
        now += gap
        meter.content(now)
    return meter


def test_before_the_first_chunk() -> None:
    meter = Timings(5.0)
    assert (meter.ttft, meter.first, meter.pieces) == (None, None, 0)
    assert meter.gaps(0.5, 1.0) == [None, None]
    assert meter.last == 5.0, "stall is measured from the receipt until something comes"


def test_time_to_first_token_counts_from_the_receipt() -> None:
    meter = metered([1.0, 2.0], received=10.0, first=12.5)
    assert meter.ttft == 2.5
    assert (meter.first, meter.last, meter.pieces) == (12.5, 15.5, 3)


def test_one_chunk_has_no_gap() -> None:
    meter = metered([], received=1.0, first=2.0)
    assert meter.gaps(0.99, 1.0) == [None, None], "the wait for the first token is no gap"


@pytest.mark.parametrize("gaps", [[1.0], [0.1, 3.0, 0.2], [0.0, 0.0], [1e-7, 1e-3, 7200.0]])
def test_the_longest_gap_is_exact(gaps: list[float]) -> None:
    assert metered(gaps).gaps(1.0)[0] == pytest.approx(max(gaps), abs=1e-9)


def true_percentile(gaps: list[float], fraction: float) -> float:
    ordered = sorted(gaps)
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]


# 1024 microseconds begin an octave, where a bucket is widest against its value.
SERIES: dict[str, list[float]] = {
    "even": [0.02] * 100,
    "two kinds": [0.01] * 90 + [1.0] * 10,
    "a slope": [number / 1000 for number in range(1, 1001)],
    "a steep slope": [1.07**number * 1e-4 for number in range(150)],
    "at the foot of an octave": [0.001024] * 99 + [1.0],
    "just under an octave": [0.001023] * 99 + [1.0],
    "in the middle of an octave": [0.0016] * 99 + [1.0],
    "minutes": [61.0] * 99 + [3000.0],
}


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9, 0.95, 0.99])
def test_a_percentile_is_right_to_within_25_percent(name: str, fraction: float) -> None:
    gaps = SERIES[name]
    true = true_percentile(gaps, fraction)
    told = metered(gaps).gaps(fraction)[0]
    assert told is not None
    assert true - 2e-6 <= told <= true * EXACT + 2e-6


@QUICK
@given(st.lists(st.floats(1e-4, 1000), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_percentile_never_tells_too_little(gaps: list[float], fraction: float) -> None:
    meter = metered(gaps)
    told = meter.gaps(fraction)[0]
    assert told is not None
    assert true_percentile(gaps, fraction) * (1 - 1e-6) - 1e-6 <= told <= (meter.gaps(1.0)[0] or 0)


def test_percentiles_rise() -> None:
    meter = metered([1.3**number * 1e-5 for number in range(60)])
    told = [meter.gaps(percent / 100)[0] or 0 for percent in range(1, 101)]
    assert told == sorted(told)
    assert len(set(told)) > 40


@pytest.mark.parametrize("gap", [0.0, 1e-9, 1e-6, 4294.967296, 86_400.0, 1e9])
def test_no_gap_is_too_small_or_too_great(gap: float) -> None:
    meter = metered([gap] * 3)
    told = meter.gaps(0.5)[0]
    assert told is not None
    assert 0 <= told <= (meter.gaps(1.0)[0] or 0)
