"""The vocabulary inside a GGUF file, and that it counts as llama.cpp does."""

import struct
from pathlib import Path

import httpx
import pytest
import tiktoken

from legato.configuration import load as load_settings
from legato.core.token_counting import SLICE
from legato.mock.server import MockServer
from legato.server import assembly
from legato.upstreams.gguf import context_length
from legato.upstreams.tokenizers import _PRE_TOKENIZERS, TokenizerError, load
from tests.support.engines import MODEL, engines

TEXT = "Once upon a time, there was a stream."
CODE = Path(__file__).read_text()


def encoding(name: str, pattern: str, *merged: str) -> tiktoken.Encoding:
    """One with a token for each byte, and one for each of `merged`."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    for text in merged:
        ranks[text.encode()] = len(ranks)
    return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


HOSTILE = {
    "spaces": " " * SLICE,
    "spaces before a letter": " " * (SLICE - 1) + "a",
    "spaces before a digit": "x" + " " * (SLICE - 2) + "1",
    "line ends": "\n" * SLICE,
    "both in turn": " \n" * (SLICE // 2),
    "no space at all": "x" * SLICE,
    "signs": "!'" * (SLICE // 2),
    "marks": "\u0301" * SLICE,
    "many scripts": "Žluťoučký कुत्ता 世界 ١٢٣ 🐎👩‍👩‍👧 \u2028\x85\xa0\x00I'LL we've\r\n 12345" * 10,
}


@pytest.mark.parametrize("cut", sorted(set(_PRE_TOKENIZERS.values())), ids=len)
def test_cuts_leave_nothing_out_of_any_text(cut: str) -> None:
    made = encoding("cut", cut)
    for name, text in HOSTILE.items():
        assert made.decode_bytes(made.encode_ordinary(text)) == text.encode(), name


_KEYS = ("tokenizer.ggml.model", "tokenizer.ggml.pre")


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf(kind: str = "gpt2", cut: str = "gpt-2", merges: tuple[str, ...] = ("Ġ h", "h e")) -> bytes:
    """The head of a file with such a vocabulary, among members of every type."""
    pairs = [
        string(key) + struct.pack("<I", 8) + string(value)
        for key, value in zip(_KEYS, (kind, cut), strict=True)
    ]
    array = struct.pack("<IIQ", 9, 8, len(merges)) + b"".join(map(string, merges))
    pairs.append(string("tokenizer.ggml.merges") + array)
    for number, form in enumerate("BbHhIif?"):
        pairs.insert(number % 2, string(f"x{form}") + struct.pack(f"<I{form}", number, 1))
    pairs.insert(1, string("xQ") + struct.pack("<IQ", 10, 1))
    pairs.insert(1, string("scores") + struct.pack("<IIQ3f", 9, 6, 3, 1, 2, 3))
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + b"".join(pairs)


def test_the_vocabulary_in_a_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "some.gguf"
    path.write_bytes(gguf(merges=("Ġ h", "e y", "Ġh ey", "Ã ©")))
    counted = load(str(path), {})
    assert counted.count("hey hey") == 2 + 1
    assert counted.count("é") == 1
    model = tmp_path / "without-an-ending"
    model.write_bytes(path.read_bytes())
    assert load("name", {"name": model}).count(" hey") == 1


def with_context(tokens: int | None) -> bytes:
    """The head of a file that tells, or does not, what its model was trained for."""
    pairs = [string("general.architecture") + struct.pack("<I", 8) + string("llama")]
    if tokens is not None:
        pairs.append(string("llama.context_length") + struct.pack("<II", 4, tokens))
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + b"".join(pairs)


@pytest.mark.parametrize(
    ("head", "tokens"),
    [
        (with_context(8192), 8192),
        (with_context(None), None),
        (with_context(0), None),
        (b"not a model", None),
    ],
)
def test_what_a_model_was_trained_for(tmp_path: Path, head: bytes, tokens: int | None) -> None:
    path = tmp_path / "some.gguf"
    assert context_length(path) is None
    path.write_bytes(head)
    assert context_length(path) == tokens


@pytest.mark.parametrize(
    ("trained", "configured", "context"),
    [(8192, 32768, 8192), (8192, 4096, 4096), (8192, 8192, 8192), (None, 32768, 32768)],
)
def test_an_engine_has_no_more_context_than_its_model_was_trained_for(
    tmp_path: Path, trained: int | None, configured: int, context: int
) -> None:
    """llama.cpp gives it no more, and says nothing."""
    path = tmp_path / "some.gguf"
    path.write_bytes(with_context(trained))
    model = {"name": "some", "path": str(path), "context": configured}
    (tmp_path / "legato.toml").write_text("")
    settings = load_settings(tmp_path / "legato.toml", {"engine.models": [model]}, {})
    told: list[str] = []
    found = assembly.engines(
        settings, {"some": path}, lambda: 0.0, lambda event, **_: told.append(event)
    )
    (route,) = assembly.routes(settings, {"some": found[0].upstream}, found)
    assert found[0].model.context == route.context_length == context
    assert told == (["engine_context_limited"] if context < configured else [])


async def test_a_gguf_file_counts_as_llama_cpp_does(tmp_path: Path, scripted: MockServer) -> None:
    base = await scripted.start()
    deployment = {"name": "far", "model": "far", "base_url": base, "tokenizer": MODEL}
    async with engines(tmp_path, {"name": MODEL}, deployments=[deployment]) as legato:
        engine, far = legato.app.engines[0], legato.app.upstreams["far"]
        target, counter = engine.upstream.target, far.counter
        assert target is not None
        assert counter is not None
        at = f"http://{target.pool.endpoint.authority}/tokenize"
        headers = {"authorization": f"Bearer {engine.key}"}
        async with httpx.AsyncClient(headers=headers) as client:
            for text in (TEXT, CODE, *HOSTILE.values()):
                body = {"content": text[:8000], "parse_special": False}
                tokens = (await client.post(at, json=body)).json()["tokens"]
                assert counter.count(text[:8000]) == len(tokens), text[:40]


UNUSABLE: dict[str, tuple[bytes, str]] = {
    "not GGUF": (b"GGML" + bytes(20), "x.gguf is not a GGUF file"),
    "an old GGUF": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "x.gguf is not a GGUF file"),
    "half a GGUF": (gguf()[:-3], "x.gguf is not a GGUF file, or an incomplete one"),
    "no head of a GGUF": (b"GG", "x.gguf is not a GGUF file, or an incomplete one"),
    "a GGUF that lies": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("x") + struct.pack("<IIQ", 9, 4, 1 << 62),
        "x.gguf is not a GGUF file, or an incomplete one",
    ),
    "no vocabulary": (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "of an unsupported kind"),
    "another kind": (gguf(kind="llama"), "of an unsupported kind (llama, gpt-2)"),
    "another cut": (gguf(cut="tekken"), "of an unsupported kind (gpt2, tekken)"),
    "letters that are no bytes": (gguf(merges=("世 界",)), "of an unsupported kind"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_used_is_reported_in_one_sentence(tmp_path: Path, name: str) -> None:
    content, sentence = UNUSABLE[name]
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(TokenizerError) as caught:
        load(str(path), {})
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="there is no file"):
        load(str(tmp_path / "x.gguf"), {})
