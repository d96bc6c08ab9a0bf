"""JSON that strict decoders refuse: what is read of it, and what is still none."""

import json
from typing import Any

import msgspec
import pytest

from legato.core.chunk import decoded
from legato.core.json_text import (
    cleaned,
    decode_leniently,
    encode_leniently,
    text_of,
    without_surrogates,
)

# body, value
LENIENT: dict[str, tuple[str, Any]] = {
    "NaN": ('{"a":NaN}', {"a": None}),
    "Infinity": ("[Infinity,-Infinity]", [None, None]),
    "a constant alone": ("NaN", None),
    "the same words in strings": (
        '{"NaN":"NaN, -Infinity","a":Infinity}',
        {"NaN": "NaN, -Infinity", "a": None},
    ),
    "behind an escaped quote": (r'["\"",NaN,"\\",NaN]', ['"', None, "\\", None]),
    "a high half": (r'{"a":"hi \ud83d"}', {"a": "hi \ufffd"}),
    "a low half": (r'{"a":"\ude00 ok"}', {"a": "\ufffd ok"}),
    "halves in the wrong order": (r'["\ude00\ud83d"]', ["\ufffd\ufffd"]),
    "a half in front of a pair": (r'["\ud83d\ud83d\ude00"]', ["\ufffd😀"]),
    "a half in a name": (r'{"\ud83d":1}', {"\ufffd": 1}),
    "deep inside": (r'{"a":[{"b":["\ud83d"]}]}', {"a": [{"b": ["\ufffd"]}]}),
    "an escape that is text": (r'["\\ud83d",NaN]', ["\\ud83d", None]),
    "numbers stay": (
        "[1.5,-0.1,1e3,123456789012345678901,NaN]",
        [1.5, -0.1, 1000.0, 123456789012345678901, None],
    ),
    "a byte order mark": ("\ufeff[NaN]", [None]),
    "white space": (" [ NaN ] \n", [None]),
}


@pytest.mark.parametrize("case", LENIENT)
def test_what_a_strict_decoder_refuses(case: str) -> None:
    body, value = LENIENT[case]
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(body.encode())
    assert decode_leniently(body.encode()) == value
    assert decoded(body.encode()) == value
    msgspec.json.encode(decode_leniently(body.encode()))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b'{"a":NaN',
        b'{"a":NaN}}',
        b'{"a":nan}',
        b'{"a":-NaN}',
        b'{"a":NaNs}',
        b"{'a':NaN}",
        b'{"a":NaN,}',
        rb'{"a":"\ud83d',
        rb'{"a":"\ud83"}',
        rb'{"a":"\ud83g"}',
        b'{"a":"\n"}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\xbd"}',
        b'{"usage": broken',
        b"[" * 100_000,
        b'{"a":' * 100_000 + b"NaN" + b"}" * 100_000,
    ],
)
def test_what_is_no_json_either_way(body: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        decode_leniently(body)
    assert decoded(body) is None


def test_halves_stay_where_texts_are_and_nowhere_else() -> None:
    body = rb'{"id":"\ud83d","text":"\ud83d",'
    body += rb'"a":{"text":"\ud83d","b":[{"text":"\ude00"},["\ude00"]]}}'
    texts = {("text",), ("a", "b", "text")}
    assert decode_leniently(body, texts) == {
        "id": "\ufffd",
        "text": "\ud83d",
        "a": {"text": "\ufffd", "b": [{"text": "\ude00"}, ["\ufffd"]]},
    }


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", ""),
        ("plain ž 😀", "plain ž 😀"),
        ("hi \ud83d", "hi \ufffd"),
        ("\ude00", "\ufffd"),
        ("\ud83d" + "\ude00", "😀"),
        ("\ude00" + "\ud83d", "\ufffd\ufffd"),
        ("\ud83d" + "\ud83d\ude00" + "x", "\ufffd😀x"),
        ("\ud83dx\ude00", "\ufffdx\ufffd"),
    ],
)
def test_text_without_surrogates(text: str, wanted: str) -> None:
    assert without_surrogates(text) == wanted
    assert cleaned([{text: text}, 7, None]) == [{wanted: wanted}, 7, None]


@pytest.mark.parametrize("value", [{"a": "ž"}, ["hi \ud83d"], {"a": ["\ude00", 1.5, None]}])
def test_what_is_encoded_leniently_is_decoded_to_the_same(value: Any) -> None:
    assert json.loads(encode_leniently(value)) == value


@pytest.mark.parametrize(
    ("quoted", "text"),
    [
        (b'"a\\n\\ud83d\\ude00"', "a\n😀"),
        ('"ž"'.encode(), "ž"),
        (rb'"\ud83d"', None),
        (b'"a', None),
        (b'"a" ', "a"),
        (b"7", None),
        (b'"\xff"', None),
        ('"\u2028"'.encode(), None),
        (rb'"\u2028"', "\u2028"),
    ],
)
def test_the_text_of_a_string(quoted: bytes, text: str | None) -> None:
    assert text_of(quoted) == text
