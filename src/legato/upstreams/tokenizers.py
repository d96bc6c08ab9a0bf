"""Tokenizers of models: tiktoken's encodings, a `tokenizer.json`, the one inside a GGUF file.

They come with the optional packages of `legato[tokenizers]`, which are imported where a deployment
names a tokenizer, and not before.
"""

import os
from collections.abc import Callable, Mapping, Sized
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from legato.core.token_counting import SLICE, slices
from legato.upstreams.gguf import GgufError, metadata


class TokenizerError(ValueError):
    """A tokenizer that is not there, or that cannot be used; the message is a sentence's rest."""


class Tokenizer:
    """Counts as a model does (`core.counting.Counter`). `encode` gives something as long as there
    are tokens; it is called from several threads."""

    def __init__(self, encode: Callable[[str], Sized]) -> None:
        self._encode = encode
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")

    def count(self, text: str) -> int:
        # Slices: tiktoken's regular expressions panic in long runs of white space.
        return sum(len(self._encode(piece)) for piece in slices(text)) if text else 0

    def begin(self, texts: list[str]) -> Callable[[], int]:
        """What is longer than a slice is counted in a thread: both libraries let others run."""

        def count() -> int:
            return sum(map(self.count, texts))

        if sum(map(len, texts)) <= SLICE:
            return count
        future = self._aside.submit(count)
        # Where the thread has not come to it there is no use in waiting for all that is before it.
        return lambda: count() if future.cancel() else future.result()


def load(name: str, models: Mapping[str, Path]) -> Tokenizer:
    """What a deployment calls `tokenizer`: a model of the engine (`models`: where their files are),
    a file, or an encoding of tiktoken. Raises `TokenizerError`."""
    path = models.get(name) or Path(name).expanduser()
    try:
        if name in models or path.suffix == ".gguf":
            return _of_gguf(path)
        if path.suffix == ".json":
            return _of_json(path)
        return _of_tiktoken(name, models)
    except ImportError as error:
        raise TokenizerError(
            f"`{name}` needs the package {error.name}: pip install 'legato[tokenizers]'"
        ) from None


def _of_tiktoken(name: str, models: Mapping[str, Path]) -> Tokenizer:
    import tiktoken

    known = tiktoken.list_encoding_names()
    if name not in known:
        raise TokenizerError(
            f"`{name}` is none of tiktoken's encodings ({', '.join(known)}), no model of the engine"
            f" ({', '.join(models) or 'it has none'}), and no .json or .gguf file"
        )
    try:
        return Tokenizer(tiktoken.get_encoding(name).encode_ordinary)
    except (OSError, ValueError) as error:
        raise TokenizerError(
            f"`{name}` is not here yet and cannot be fetched ({type(error).__name__}): connect this"
            " machine once, or say in TIKTOKEN_CACHE_DIR where tiktoken finds it"
        ) from None


def _of_json(path: Path) -> Tokenizer:
    # Its own threads gain nothing for one text at a time, and warn when an engine is started.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tokenizers

    if not path.is_file():
        raise TokenizerError(f"there is no file {path}")
    try:
        read: Any = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # it raises nothing narrower
        raise TokenizerError(f"{path} is no tokenizer.json: {error}") from None
    read.no_truncation()
    read.no_padding()

    def encode(text: str) -> Sized:
        # Of a batch, because that one lets other threads run.
        return read.encode_batch_fast([text], add_special_tokens=False)[0]

    return Tokenizer(encode)


# How text is cut before its bytes are merged, by llama.cpp's names. Each is what the model's own
# `tokenizer.json` says, as one expression.
_GPT2: Final = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SMOLLM: Final = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}|\s+(?=\p{N})| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
_SHORT: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST: Final = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3: Final = _SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _REST
_QWEN2: Final = _SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _REST
_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_GPT4O: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SHORT}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SHORT}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _REST
)
_CUTS: Final = {
    **dict.fromkeys(("gpt-2", "phi-2", "olmo"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), _SMOLLM),
    **dict.fromkeys(("llama-bpe", "llama-v3", "dbrx", "glm4"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), _QWEN2),
    **dict.fromkeys(("gpt-4o", "llama4"), _GPT4O),
}


def _of_gguf(path: Path) -> Tokenizer:
    """Merges bytes as llama.cpp does for a vocabulary of the kind `gpt2`: those of Llama 3, Qwen,
    SmolLM, gpt-oss and many more. What is written of special tokens counts as text."""
    import tiktoken

    keys = ("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.merges")
    try:
        found = metadata(path, keys)
    except FileNotFoundError:
        raise TokenizerError(f"there is no file {path}") from None
    except (GgufError, OSError) as error:
        raise TokenizerError(str(error)) from None
    kind, cut, merges = (found.get(key) for key in keys)
    ranks = _ranks(merges) if kind == "gpt2" and cut in _CUTS and merges else None
    if ranks is None:
        raise TokenizerError(
            f"the vocabulary in {path} is of a kind that is not known here ({kind}, {cut}):"
            " name the model's tokenizer.json"
        )
    encoding = tiktoken.Encoding(
        path.name, pat_str=_CUTS[str(cut)], mergeable_ranks=ranks, special_tokens={}
    )
    return Tokenizer(encoding.encode_ordinary)


def _ranks(merges: list[str]) -> dict[bytes, int] | None:
    """tiktoken's table: what is merged sooner has the lower number. None where letters are not
    bytes."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    letters = _letters()
    try:
        for merge in merges:
            merged = bytes(letters[letter] for letter in merge.replace(" ", "", 1))
            ranks.setdefault(merged, len(ranks))
    except KeyError:
        return None
    return ranks


def _letters() -> dict[str, int]:
    """GPT-2's letters for bytes: those that can be seen stand for themselves, the others, in their
    order, for letters from 256 on."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in seen)
    return {chr(byte): byte for byte in seen} | {
        chr(256 + number): byte for number, byte in enumerate(others)
    }
