"""Members of a JSON object are changed as text: every other byte stays."""

import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.core.span_edit import with_members, with_number, with_padding


@pytest.mark.parametrize(
    ("text", "changes", "edited"),
    [
        ('{"model":"a","n":1}', {"model": "b"}, '{"model":"b","n":1}'),
        ('{ "n" : 1 , "model" : "a" }', {"model": "b"}, '{ "n" : 1 , "model" : "b" }'),
        ('{"model": {"x": [1, {"model": 2}]}, "y": 1}', {"model": "b"}, '{"model": "b", "y": 1}'),
        (
            '{"x":{"model":"a"},"s":"\\"model\\":\\"a\\"","model":"a"}',
            {"model": "b"},
            '{"x":{"model":"a"},"s":"\\"model\\":\\"a\\"","model":"b"}',
        ),
        ('{"model":"a","model":"c"}', {"model": "b"}, '{"model":"b","model":"b"}'),
        ('{"mod\\u0065l":"a"}', {"model": "b"}, '{"mod\\u0065l":"b"}'),
        ('{"model":"a"}', {"stream": True}, '{"stream":true,"model":"a"}'),
        ('{"model":"a","stream": false\n}', {"stream": True}, '{"model":"a","stream": true\n}'),
        (" {} ", {"stream": True}, ' {"stream":true} '),
        (
            '{"models":["a,b","}"],"model":null}',
            {"model": "b"},
            '{"models":["a,b","}"],"model":"b"}',
        ),
        ('{"a":"\\\\","model":"a"}', {"model": "b"}, '{"a":"\\\\","model":"b"}'),
        ('{"a":"model","model":"a"}', {"model": "b"}, '{"a":"model","model":"b"}'),
    ],
)
def test_a_member_is_changed(text: str, changes: dict[str, Any], edited: str) -> None:
    assert with_members(text.encode(), changes).decode() == edited


@pytest.mark.parametrize("unit", ["A", "A\\n", '\\"\\\\'])
def test_a_long_string_costs_no_more_than_its_letters(unit: str) -> None:
    """Images and documents stand in requests as strings of megabytes."""
    text = b'{"model":"a","x":"%b"}' % (unit.encode() * (2 << 20))
    tracemalloc.start()
    try:
        edited = with_members(text, {"model": "b"})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert edited == text.replace(b'"a"', b'"b"')
    assert peak < 8 * len(text) + (64 << 20)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.dictionaries(st.text(), VALUES, max_size=5),
    VALUES,
    st.sampled_from([None, 1, 3]),
    st.booleans(),
)
def test_all_else_stays(
    fields: dict[str, Any], value: Any, indent: int | None, escapes: bool
) -> None:
    fields["model"] = value
    text = json.dumps(fields, indent=indent, ensure_ascii=escapes)
    try:
        edited = with_members(text.encode(), {"model": "other"}).decode()
    except UnicodeEncodeError:
        return  # half a surrogate pair: no JSON text holds one
    assert msgspec.json.decode(edited) == fields | {"model": "other"}
    marked = json.dumps(fields | {"model": "other"}, indent=indent, ensure_ascii=escapes)
    assert edited == marked


@pytest.mark.parametrize(
    ("event", "wanted"),
    [
        (b'{"sequence_number":7,"a":1}', b'{"sequence_number":12,"a":1}'),
        (b'{"a":1,"sequence_number":0}', b'{"a":1,"sequence_number":12}'),
        (
            b'{"sequence_number":7,"sequence_number":8}',
            b'{"sequence_number":12,"sequence_number":12}',
        ),
        (rb'{"a":"\"sequence_number\":7,"}', rb'{"a":"\"sequence_number\":7,"}'),
        (b'{"sequence_number":"7"}', b'{"sequence_number":"7"}'),
        (b'{"sequence_number":7.0}', b'{"sequence_number":7.0}'),
        (b'{"sequence_number":07}', b'{"sequence_number":07}'),
    ],
)
def test_another_number(event: bytes, wanted: bytes) -> None:
    assert with_number(event, 12) == wanted


@pytest.mark.parametrize(
    ("event", "wanted"),
    [
        (b'{"obfuscation":"x-Y_9","a":1}', b'{"obfuscation":"z","a":1}'),
        (b'{"obfuscation":""}', b'{"obfuscation":"z"}'),
        (rb'{"obfuscation":"\u0041"}', rb'{"obfuscation":"\u0041"}'),
        (rb'{"a":"\"obfuscation\":\"b\""}', rb'{"a":"\"obfuscation\":\"b\""}'),
        (b'{"obfuscation":null}', b'{"obfuscation":null}'),
    ],
)
def test_other_padding(event: bytes, wanted: bytes) -> None:
    assert with_padding(event, b"z") == wanted
