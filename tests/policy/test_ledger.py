"""A row's columns about attempts: they stay aligned whatever an error code contains."""

from typing import Any

import msgspec
import pytest

from legato.policy.ledger import MAX_CODE_LENGTH, Row
from legato.settings import Deployment

ATTEMPTS: dict[str, tuple[list[tuple[str, str]], str, str]] = {
    # attempts, `deployments`, `errors`
    "none": ([], "", ""),
    "one that succeeded": ([("a", "")], "a", ""),
    "one that failed": ([("a", "upstream_cut")], "a", "upstream_cut"),
    "the last succeeded": ([("a", "upstream_500"), ("b", "")], "a,b", "upstream_500,"),
    "the same twice": ([("a", "x"), ("a", "y")], "a,a", "x,y"),
    "a comma in a code": ([("a", "x,y"), ("b", "z")], "a,b", "x_y,z"),
    "only commas": ([("a", ",,"), ("b", "")], "a,b", "__,"),
    "a line end": ([("a", "x\r\ny"), ("b", "z")], "a,b", "x__y,z"),
    "a NUL": ([("a", "x\0"), ("b", "z")], "a,b", "x_,z"),
    "an escape sequence": ([("a", "\x1b[31m"), ("b", "z")], "a,b", "_[31m,z"),
    "a C1 control character": ([("a", "x\x9by"), ("b", "")], "a,b", "x_y,"),
    "a line separator": ([("a", "x\u2028y"), ("b", "")], "a,b", "x_y,"),
    "a lone surrogate": ([("a", "x\ud800y"), ("b", "")], "a,b", "x_y,"),
    "letters beyond ASCII": ([("a", "überlastet"), ("b", "")], "a,b", "überlastet,"),
    "a long code": ([("a", "x" * 5000), ("b", "z")], "a,b", "x" * MAX_CODE_LENGTH + ",z"),
}


@pytest.mark.parametrize("case", ATTEMPTS)
def test_attempts_fill_three_columns(case: str) -> None:
    attempts, deployments, errors = ATTEMPTS[case]
    row = Row("call", 0.0)
    row.record_attempts(attempts)
    assert (row.attempts, row.deployments, row.errors) == (len(attempts), deployments, errors)


@pytest.mark.parametrize("case", ATTEMPTS)
def test_columns_can_be_split_again(case: str) -> None:
    attempts, _, _ = ATTEMPTS[case]
    row = Row("call", 0.0)
    row.record_attempts(attempts)
    row.errors.encode()  # a lone surrogate would fail here, and in the database
    if attempts:
        assert row.deployments.split(",") == [deployment for deployment, _ in attempts]
        failed = [bool(code) for code in row.errors.split(",")]
        assert failed == [bool(code) for _, code in attempts]


def test_the_last_recording_counts() -> None:
    row = Row("call", 0.0)
    row.record_attempts([("a", "x"), ("b", "")])
    row.record_attempts([("a", "x"), ("b", "y"), ("c", "")])
    assert (row.attempts, row.deployments, row.errors) == (3, "a,b,c", "x,y,")


@pytest.mark.parametrize("name", ["a,b", "a b", "a\nb", "a\n", "a\0b", ",", "", "\x1b[31m"])
def test_the_settings_refuse_names_that_would_break_the_columns(name: str) -> None:
    values: dict[str, Any] = {"name": name, "model": "m"}
    with pytest.raises(msgspec.ValidationError, match="name"):
        msgspec.convert(values, Deployment)
