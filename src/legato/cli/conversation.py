"""What `legato chat` and a server say to each other, and how an answer looks.

Everything a server sends is cleaned before anybody else sees it: what a model writes must not drive
the terminal that shows it.
"""

import json
import os
import ssl
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, TextIO

import httpx

from legato.core.sse import Decoder, EventTooLarge

#: C0 and C1 control characters but for tab and newline, which begin every escape sequence; lone
#: surrogates, which JSON can hold and UTF-8 cannot.
_UNSAFE: Final[dict[int, str | None]] = {
    **{code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)},
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
}

#: Seconds without one byte, heartbeats included, before a server counts as gone.
_SILENCE: Final = 300.0

#: What becomes of thinking on a terminal. Elsewhere only "keep" shows it, on standard error.
Thinking = Literal["fold", "keep", "hide"]

Piece = tuple[Literal["thinking", "answer"], str]


def clean(text: str) -> str:
    return text.translate(_UNSAFE)


class ChatError(Exception):
    """Why there is no answer, or no whole one: a sentence and a code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = clean(code)
        self.message = " ".join(clean(message).split())

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class Answer:
    """One answer, as far as it came. Times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self.text = ""
        self.thinking = ""
        self.thinking_tokens = 0  # pieces, in truth: servers send one a token
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] = {}
        self.asked = time.monotonic()
        self.first: float | None = None  # when the first piece came, thinking or not
        self.thought: float | None = None  # when the last piece of thinking came
        self.last: float | None = None

    @property
    def thinking_seconds(self) -> float:
        return (self.thought or 0.0) - (self.first or 0.0)

    def take(self, piece: Piece) -> None:
        kind, text = piece
        self.last = time.monotonic()
        self.first = self.first or self.last
        if kind == "thinking":
            self.thinking += text
            self.thinking_tokens += 1
            self.thought = self.last
        else:
            self.text += text

    def stats(self) -> str:
        """Time to the first token, rate, usage: what of it is known."""
        said: list[str] = []
        if self.first is not None and self.last is not None:
            said.append(f"TTFT {self.first - self.asked:.2f} s")
            tokens, seconds = self._tokens("completion_tokens"), self.last - self.first
            if tokens > 1 and seconds > 0:
                # The first token's time is the prompt's, so it does not count.
                said.append(f"{(tokens - 1) / seconds:.1f} tokens/s")
        if self.usage:
            prompt, completion = self._tokens("prompt_tokens"), self._tokens("completion_tokens")
            said.append(f"{prompt} prompt + {completion} completion tokens")
        if self.finish_reason == "length":
            said.append("cut at the token limit")
        elif self.finish_reason == "content_filter":
            said.append("cut by the content filter")
        return " · ".join(said)

    def _tokens(self, name: str) -> int:
        count = self.usage.get(name)
        return count if isinstance(count, int) else 0


class Api:
    """An OpenAI-compatible server."""

    def __init__(
        self, base_url: str, key: str | None, *, direct: bool, trust: str | None = None
    ) -> None:
        """`direct`: past any proxy of the environment. `trust`: a PEM file, for our own TLS."""
        self._base = base_url.rstrip("/")
        verify: ssl.SSLContext | bool = True
        if trust is not None:
            verify = ssl.create_default_context()
            verify.load_verify_locations(trust)
        headers = {"accept-encoding": "identity"}  # compression holds tokens back
        if key:
            headers["authorization"] = f"Bearer {key}"
        self._client = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(10.0, read=_SILENCE),
            trust_env=not direct,
            verify=verify,
        )

    def models(self) -> list[str]:
        """The ids of the models there are. Raises `ChatError`."""
        with self._call("GET", "/models") as response:
            try:
                listed = json.loads(response.read())
                return [clean(each["id"]) for each in listed["data"]]
            except (ValueError, TypeError, KeyError, AttributeError):
                problem = f"What answers at {self._base} gives no list of models."
                raise ChatError("bad_answer", problem) from None

    def ask(
        self, model: str, messages: list[dict[str, str]], max_tokens: int | None, answer: Answer
    ) -> Generator[Piece]:
        """The pieces of the answer as they come; `answer` holds what came so far.

        Closing the iterator closes the connection, which is how a server learns to stop. Raises
        `ChatError`, also for a stream that ends without saying that it is complete.
        """
        body: dict[str, Any] = {
            "model": model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        answer.asked = time.monotonic()
        with self._call("POST", "/chat/completions", body) as response:
            for name, data in _events(response):
                if data == b"[DONE]":
                    return
                for piece in _pieces(_frame(name, data), answer):
                    answer.take(piece)
                    yield piece
        raise ChatError(
            "stream_incomplete", "The stream broke off before its end: the answer is not complete."
        )

    @contextmanager
    def _call(self, method: str, path: str, body: Any = None) -> Iterator[httpx.Response]:
        """An answer with status 200; everything else is a `ChatError`."""
        try:
            with self._client.stream(method, self._base + path, json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise _refusal(response)
                yield response
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if "SSL" in str(error) or "CERTIFICATE" in str(error):
                problem = f"The server at {self._base} cannot be trusted: {error}."
                raise ChatError("tls_failed", problem) from None
            problem = f"No server answers at {self._base}: start one with `legato serve`."
            raise ChatError("no_server", problem) from None
        except httpx.ReadTimeout:
            problem = f"The server said nothing for {_SILENCE:.0f} s."
            raise ChatError("timeout", problem) from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            problem = f"`{self._base}` is not an http:// or https:// URL."
            raise ChatError("bad_url", problem) from None
        except (httpx.HTTPError, EventTooLarge) as error:
            problem = f"The connection broke: {error or type(error).__name__}."
            raise ChatError("connection_broken", problem) from None


def _events(response: httpx.Response) -> Iterator[tuple[bytes, bytes]]:
    decoder = Decoder()
    for data in response.iter_bytes():
        yield from decoder.feed(data)
    yield from decoder.close()


def _frame(name: bytes, data: bytes) -> dict[str, Any]:
    try:
        frame = json.loads(data)
    except ValueError:
        frame = None
    if not isinstance(frame, dict):
        raise ChatError("bad_stream", "The server sent a frame that is not a JSON object.")
    if name == b"error" or frame.get("error"):
        raise _said(frame, "error", "The server ended the stream with an error.")
    return frame


def _pieces(frame: dict[str, Any], answer: Answer) -> list[Piece]:
    if isinstance(frame.get("usage"), dict):
        answer.usage = frame["usage"]
    pieces: list[Piece] = []
    choices = frame.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if not isinstance(delta, dict):
            continue
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
        for name in ("reasoning_content", "content", "refusal"):
            text = delta.get(name)
            if isinstance(text, str) and (text := clean(text)):
                pieces.append(("thinking" if name == "reasoning_content" else "answer", text))
    return pieces


def _refusal(response: httpx.Response) -> ChatError:
    code = str(response.status_code)
    plain = f"The server answered {code} {response.reason_phrase}".rstrip() + "."
    try:
        error = _said(response.json(), code, plain)
    except ValueError:
        error = ChatError(code, plain)
    if response.status_code == 401:
        error.message += " --key or LEGATO_API_KEY gives one."
    return error


def _said(body: Any, code: str, message: str) -> ChatError:
    """OpenAI's error object, as far as `body` is one; `code` and `message` where it is not."""
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, str):
        return ChatError(code, error)
    if not isinstance(error, dict):
        return ChatError(code, message)
    return ChatError(
        str(error.get("code") or error.get("type") or code), str(error.get("message") or message)
    )


def interactive(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def styled(text: str, style: str, stream: TextIO) -> str:
    plain = not stream.isatty() or os.environ.get("TERM") == "dumb"
    colour = style[0] == "3" and os.environ.get("NO_COLOR")
    return text if plain or colour else f"\x1b[{style}m{text}\x1b[0m"


def view_of(answer: Answer, thinking: Thinking, hint: str) -> "PlainView":
    """How `answer` is shown; `hint` says where folded thinking can be seen."""
    if interactive(sys.stdout) and os.environ.get("TERM") != "dumb":
        size = os.get_terminal_size(sys.stdout.fileno())
        if size.columns > 1:
            return FoldingView(answer, thinking, hint, size)
    return PlainView(thinking)


class PlainView:
    """An answer into a pipe: nothing but the answer, and a newline at its end."""

    def __init__(self, thinking: Thinking) -> None:
        self._thinking = thinking
        self._ends = {sys.stdout: "\n", sys.stderr: "\n"}

    def show(self, piece: Piece) -> None:
        if piece[0] == "answer":
            self._end(sys.stderr)
            self._write(sys.stdout, piece[1])
        elif self._thinking == "keep":
            self._write(sys.stderr, piece[1])

    def end(self) -> None:
        self._end(sys.stderr)
        self._end(sys.stdout)

    def _write(self, stream: TextIO, text: str) -> None:
        stream.write(text)
        stream.flush()
        self._ends[stream] = text[-1]

    def _end(self, stream: TextIO) -> None:
        if self._ends[stream] != "\n":
            self._write(stream, "\n")


class FoldingView(PlainView):
    """An answer on a terminal: thinking is dim, and one line once the answer begins."""

    def __init__(
        self, answer: Answer, thinking: Thinking, hint: str, size: os.terminal_size
    ) -> None:
        super().__init__(thinking)
        self._answer = answer
        self._hint = hint
        self._size = size
        self._rows = self._column = 0  # of the thinking on the screen
        self._answering = False

    def show(self, piece: Piece) -> None:
        kind, text = piece
        if kind == "answer":
            if not self._answering:
                text = text.lstrip("\n")  # models put blank lines between thinking and answer
                if not text:
                    return
                self._fold()
            self._answering = True
            self._write(sys.stdout, text)
        elif self._thinking != "hide":
            if not (self._rows or self._column):
                text = text.lstrip("\n")
            self._dim(text)

    def _dim(self, text: str) -> None:
        """Wraps by itself, one column early: what a terminal does with wide or joined characters
        at its margin would make the count of rows a guess."""
        from prompt_toolkit.utils import get_cwidth

        lines = [""]
        for character in text.expandtabs(4):
            width = max(get_cwidth(character), 0)
            if character == "\n" or self._column + width >= self._size.columns:
                lines.append("")
                self._rows += 1
                self._column = 0
            if character != "\n":
                lines[-1] += character
                self._column += width
        if written := "\n".join(lines):
            sys.stdout.write(f"\x1b[2m{written}\x1b[0m")
            sys.stdout.flush()
            self._ends[sys.stdout] = written[-1]

    def _fold(self) -> None:
        if not (self._rows or self._column):
            return
        seconds, tokens = self._answer.thinking_seconds, self._answer.thinking_tokens
        said = f"thought for {seconds:.1f} s, {tokens} tokens"
        same_size = os.get_terminal_size(sys.stdout.fileno()) == self._size
        if self._thinking == "fold" and same_size and self._rows < self._size.lines:
            # Up to where it began, and everything from there on away.
            up = f"\x1b[{self._rows}A" if self._rows else ""
            sys.stdout.write(f"\r{up}\x1b[J")
            said = f"▸ {said} ({self._hint})"
        else:
            self._end(sys.stdout)
            said = f"▾ {said}"
        self._write(sys.stdout, styled(said, "2", sys.stdout) + "\n")
