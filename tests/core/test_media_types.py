"""Media types by their registered names, and `data:` URLs."""

from typing import Any

import pytest

from legato.core.media_types import media_type, parse_data_url


@pytest.mark.parametrize(
    ("name", "registered"),
    [
        ("image/jpg", "image/jpeg"),
        (" Image/JPG ", "image/jpeg"),
        ("image/pjpeg", "image/jpeg"),
        ("image/x-png", "image/png"),
        ("application/x-pdf", "application/pdf"),
        ("image/jpeg", "image/jpeg"),
        ("image/webp", "image/webp"),
        ("text/plain", "text/plain"),
        ("", ""),
    ],
)
def test_names(name: str, registered: str) -> None:
    assert media_type(name) == registered
    assert media_type(registered) == registered


URLS: list[tuple[Any, tuple[str, str] | None]] = [
    ("data:image/png;base64,AAAA", ("image/png", "AAAA")),
    ("data:image/jpg;base64,AA==", ("image/jpeg", "AA==")),
    ("DATA:IMAGE/PNG;BASE64,aA/+", ("image/png", "aA/+")),
    ("data:text/plain;charset=utf-8;base64,AAAA", ("text/plain", "AAAA")),
    ("data:text/plain;charset=utf-8;name=a.txt;base64,AAAA", ("text/plain", "AAAA")),
    ("data:image/png;base64,A\nA", ("image/png", "A\nA")),
    ("data:image/png;base64,", None),
    ("data:image/png,AAAA", None),
    ("data:;base64,AAAA", None),
    ("data:,", None),
    ("data:image/png;base64;x=y,AAAA", None),
    ("https://example.com/a.png", None),
    ("", None),
    (None, None),
    (7, None),
    ({"url": "data:image/png;base64,AAAA"}, None),
]


@pytest.mark.parametrize(("url", "parts"), URLS)
def test_data_urls(url: Any, parts: tuple[str, str] | None) -> None:
    assert parse_data_url(url) == parts
