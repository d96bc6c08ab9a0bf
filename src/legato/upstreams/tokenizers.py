"""Loads tokenizers: tiktoken encodings, `tokenizer.json` files, and vocabularies in GGUF files.

They need the optional packages of `legato[tokenizers]`, which are imported only if a deployment
names a tokenizer.
"""

import os
from collections.abc import Callable, Mapping, Sized
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from legato.core.token_counting import SLICE, slices
from legato.upstreams.gguf import GgufError, metadata


class TokenizerError(ValueError):
    """A tokenizer is missing or cannot be used. The message follows the name of the setting."""


class Tokenizer:
    """Counts tokens of one model (`core.token_counting.Counter`). `encode` returns a sequence of
    tokens; it is called from several threads."""

    def __init__(self, encode: Callable[[str], Sized]) -> None:
        self._encode = encode
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")

    def count(self, text: str) -> int:
        # In slices: tiktoken's regular expressions panic on long runs of white space.
        return sum(len(self._encode(piece)) for piece in slices(text)) if text else 0

    def begin(self, texts: list[str]) -> Callable[[], int]:
        """Starts counting; the returned function waits for the result. Long texts are counted in a
        thread: both libraries release the GIL."""

        def count() -> int:
            return sum(map(self.count, texts))

        if sum(map(len, texts)) <= SLICE:
            return count
        future = self._thread.submit(count)
        # If the thread has not started on it, counting here is faster than waiting for its queue.
        return lambda: count() if future.cancel() else future.result()


def load(name: str, models: Mapping[str, Path]) -> Tokenizer:
    """Loads a deployment's `tokenizer`: an engine model by name, a file, or a tiktoken encoding.

    `models`: files of the engine's models, by name. Raises `TokenizerError`.
    """
    path = models.get(name) or Path(name).expanduser()
    try:
        if name in models or path.suffix == ".gguf":
            return _from_gguf(path)
        if path.suffix == ".json":
            return _from_json(path)
        return _from_tiktoken(name, models)
    except ImportError as error:
        raise TokenizerError(
            f"`{name}` needs the package {error.name}: pip install 'legato[tokenizers]'"
        ) from None


def _from_tiktoken(name: str, models: Mapping[str, Path]) -> Tokenizer:
    import tiktoken

    known = tiktoken.list_encoding_names()
    if name not in known:
        raise TokenizerError(
            f"`{name}` is not a tiktoken encoding ({', '.join(known)}), not a model of the engine"
            f" ({', '.join(models) or 'it has none'}), and not a .json or .gguf file"
        )
    try:
        return Tokenizer(tiktoken.get_encoding(name).encode_ordinary)
    except (OSError, ValueError) as error:
        raise TokenizerError(
            f"`{name}` is not on this machine and cannot be downloaded ({type(error).__name__}):"
            " connect this machine once, or set TIKTOKEN_CACHE_DIR to a folder with the encoding"
        ) from None


def _from_json(path: Path) -> Tokenizer:
    # Its threads do not help with one text at a time, and it warns about them after a fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tokenizers

    if not path.is_file():
        raise TokenizerError(f"there is no file {path}")
    try:
        tokenizer: Any = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"{path} is not a tokenizer.json: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode(text: str) -> Sized:
        # The batch method, because only that one releases the GIL.
        return tokenizer.encode_batch_fast([text], add_special_tokens=False)[0]

    return Tokenizer(encode)


# Pre-tokenizers: regular expressions that split text before its bytes are merged, by llama.cpp's
# names. Each is equivalent to the pre-tokenizer in the model's `tokenizer.json`.
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
_PRE_TOKENIZERS: Final = {
    **dict.fromkeys(("gpt-2", "phi-2", "olmo"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), _SMOLLM),
    **dict.fromkeys(("llama-bpe", "llama-v3", "dbrx", "glm4"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), _QWEN2),
    **dict.fromkeys(("gpt-4o", "llama4"), _GPT4O),
}


def _from_gguf(path: Path) -> Tokenizer:
    """Byte-pair encoding as llama.cpp does it for vocabularies of the kind `gpt2` (Llama 3, Qwen,
    SmolLM, gpt-oss and others). Special tokens in a text are counted as text."""
    import tiktoken

    keys = ("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.merges")
    try:
        found = metadata(path, keys)
    except FileNotFoundError:
        raise TokenizerError(f"there is no file {path}") from None
    except (GgufError, OSError) as error:
        raise TokenizerError(str(error)) from None
    kind, splitter, merges = (found.get(key) for key in keys)
    ranks = _ranks(merges) if kind == "gpt2" and splitter in _PRE_TOKENIZERS and merges else None
    if ranks is None:
        raise TokenizerError(
            f"the vocabulary in {path} is of an unsupported kind ({kind}, {splitter}):"
            " use the model's tokenizer.json"
        )
    encoding = tiktoken.Encoding(
        path.name, pat_str=_PRE_TOKENIZERS[str(splitter)], mergeable_ranks=ranks, special_tokens={}
    )
    return Tokenizer(encoding.encode_ordinary)


def _ranks(merges: list[str]) -> dict[bytes, int] | None:
    """tiktoken's ranks from the list of merges: earlier merges rank lower. None if the vocabulary
    does not encode bytes as GPT-2 does."""
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
    """GPT-2's characters for bytes: printable bytes are themselves, the others are numbered from
    U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {
        chr(256 + number): byte for number, byte in enumerate(others)
    }
