"""Periods of time as users write them."""

import pytest

from legato.policy.periods import seconds


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("30m", 1800), ("24h", 86400), (" 7d ", 604800), ("4w", 2419200), ("0m", 0)],
)
def test_a_period(text: str, wanted: int) -> None:
    assert seconds(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "7", "d", "-7d", "7 d", "7D", "1.5h", "1s", "٣d", "9" * 400 + "w"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time such as 30m, 24h, 7d or 4w") as caught:
        seconds(text)
    assert len(str(caught.value)) < 100
