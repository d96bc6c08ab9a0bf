"""The client of `legato chat`: requests to a server, and how answers are displayed.

All text from a server is cleaned of control characters: a model must not control the terminal.
"""

import json
import os
import ssl
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, TextIO
from urllib.parse import quote

import httpx

from legato.cli.server_address import ServerAddress
from legato.cli.terminal import clean
from legato.core.sse import Decoder, EventTooLarge

#: Seconds without a byte, heartbeats included, after which the connection counts as dead.
_READ_TIMEOUT: Final = 300.0

#: How reasoning is displayed at a terminal. In a pipe only "keep" shows it, on standard error.
Thinking = Literal["fold", "keep", "hide"]

Piece = tuple[Literal["thinking", "answer"], str]


class ChatError(Exception):
    """There is no answer, or an incomplete one. Has a message and a code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = clean(code)
        self.message = " ".join(clean(message).split())

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class Answer:
    """One answer, as far as it was received. Times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self.text = ""
        self.thinking = ""
        self.thinking_tokens = 0  # deltas: servers send about one per token
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] = {}
        self.requested_at = time.monotonic()
        self.first_at: float | None = None  # the first piece, of either kind
        self.thought_at: float | None = None  # the last piece of reasoning
        self.last_at: float | None = None

    @property
    def thinking_seconds(self) -> float:
        return (self.thought_at or 0.0) - (self.first_at or 0.0)

    def add(self, piece: Piece) -> None:
        kind, text = piece
        self.last_at = time.monotonic()
        self.first_at = self.first_at or self.last_at
        if kind == "thinking":
            self.thinking += text
            self.thinking_tokens += 1
            self.thought_at = self.last_at
        else:
            self.text += text

    def stats(self) -> str:
        """Time to first token, token rate and usage, as far as they are known."""
        parts: list[str] = []
        if self.first_at is not None and self.last_at is not None:
            parts.append(f"TTFT {self.first_at - self.requested_at:.2f} s")
            tokens, seconds = self._tokens("completion_tokens"), self.last_at - self.first_at
            if tokens > 1 and seconds > 0:
                # The first token is not counted: its time is that of the prompt.
                parts.append(f"{(tokens - 1) / seconds:.1f} tokens/s")
        if self.usage:
            prompt, completion = self._tokens("prompt_tokens"), self._tokens("completion_tokens")
            parts.append(f"{prompt} prompt + {completion} completion tokens")
        if self.finish_reason == "length":
            parts.append("cut at the token limit")
        elif self.finish_reason == "content_filter":
            parts.append("cut by the content filter")
        return " · ".join(parts)

    def _tokens(self, name: str) -> int:
        count = self.usage.get(name)
        return count if isinstance(count, int) else 0


class Api:
    """A client of an OpenAI-compatible server."""

    def __init__(self, server: ServerAddress) -> None:
        """Raises OSError if the server's certificate cannot be read."""
        self._base = server.base_url.rstrip("/")
        verify: ssl.SSLContext | bool = True
        if server.certificate is not None:
            verify = ssl.create_default_context()
            verify.load_verify_locations(server.certificate)
        headers = {"accept-encoding": "identity"}  # compression would delay tokens
        if server.key:
            headers["authorization"] = f"Bearer {server.key}"
        self._client = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(10.0, read=_READ_TIMEOUT),
            trust_env=not server.is_local,
            verify=verify,
        )

    def models(self) -> list[str]:
        """The ids of the server's models. Raises `ChatError`."""
        return [each["id"] for each in self.listed()]

    def model(self, name: str) -> dict[str, Any]:
        """What the server tells of a model that it may not list. Raises `ChatError`."""
        with self._request("GET", f"/models/{quote(name, safe='/')}") as response:
            try:
                return dict(json.loads(response.read()))
            except (ValueError, TypeError):
                problem = f"The server at {self._base} did not return a model."
                raise ChatError("bad_answer", problem) from None

    def listed(self) -> list[dict[str, Any]]:
        """The server's models with all that it tells of each. Raises `ChatError`."""
        with self._request("GET", "/models") as response:
            try:
                listed = json.loads(response.read())
                return [each | {"id": clean(each["id"])} for each in listed["data"]]
            except (ValueError, TypeError, KeyError, AttributeError):
                problem = f"The server at {self._base} did not return a list of models."
                raise ChatError("bad_answer", problem) from None

    def stream(
        self, model: str, messages: list[dict[str, str]], max_tokens: int | None, answer: Answer
    ) -> Generator[Piece]:
        """Yields the pieces of an answer as they arrive, and adds them to `answer`.

        Closing the generator closes the connection, which stops the generation. Raises `ChatError`,
        also for a stream that ends without `[DONE]`.
        """
        body: dict[str, Any] = {
            "model": model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        answer.requested_at = time.monotonic()
        with self._request("POST", "/chat/completions", body) as response:
            for name, data in _events(response):
                if data == b"[DONE]":
                    return
                for piece in _pieces(_chunk(name, data), answer):
                    answer.add(piece)
                    yield piece
        raise ChatError("stream_incomplete", "The stream ended early: the answer is incomplete.")

    @contextmanager
    def _request(self, method: str, path: str, body: Any = None) -> Iterator[httpx.Response]:
        """The response, if its status is 200; raises `ChatError` otherwise."""
        try:
            with self._client.stream(method, self._base + path, json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise _error_response(response)
                yield response
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if "SSL" in str(error) or "CERTIFICATE" in str(error):
                problem = f"The certificate of {self._base} cannot be verified: {error}."
                raise ChatError("tls_failed", problem) from None
            problem = f"No server answers at {self._base}: start one with `legato serve`."
            raise ChatError("no_server", problem) from None
        except httpx.ReadTimeout:
            problem = f"The server sent nothing for {_READ_TIMEOUT:.0f} s."
            raise ChatError("timeout", problem) from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            problem = f"`{self._base}` is not an http:// or https:// URL."
            raise ChatError("bad_url", problem) from None
        except (httpx.HTTPError, EventTooLarge) as error:
            problem = f"The connection failed: {str(error) or type(error).__name__}."
            raise ChatError("connection_broken", problem) from None


def _events(response: httpx.Response) -> Iterator[tuple[bytes, bytes]]:
    decoder = Decoder()
    for data in response.iter_bytes():
        yield from decoder.feed(data)
    yield from decoder.close()


def _chunk(name: bytes, data: bytes) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise ChatError("bad_stream", "The server sent an event that is not a JSON object.")
    if name == b"error" or chunk.get("error"):
        raise _error(chunk, "error", "The server ended the stream with an error.")
    return chunk


def _pieces(chunk: dict[str, Any], answer: Answer) -> list[Piece]:
    """The pieces in a chunk; sets `usage` and `finish_reason` of `answer`."""
    if isinstance(chunk.get("usage"), dict):
        answer.usage = chunk["usage"]
    pieces: list[Piece] = []
    choices = chunk.get("choices")
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


def _error_response(response: httpx.Response) -> ChatError:
    code = str(response.status_code)
    message = f"The server answered {code} {response.reason_phrase}".rstrip() + "."
    try:
        error = _error(response.json(), code, message)
    except ValueError:
        error = ChatError(code, message)
    if response.status_code == 401:
        error.message += " Set one with --key or LEGATO_API_KEY."
    return error


def _error(body: Any, code: str, message: str) -> ChatError:
    """The OpenAI error object in `body`; `code` and `message` are used for what it lacks."""
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, str):
        return ChatError(code, error)
    if not isinstance(error, dict):
        return ChatError(code, message)
    return ChatError(
        str(error.get("code") or error.get("type") or code), str(error.get("message") or message)
    )


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def styled(text: str, style: str, stream: TextIO) -> str:
    """`text` with an SGR style, if `stream` is a terminal that supports it."""
    is_plain = not stream.isatty() or os.environ.get("TERM") == "dumb"
    is_colour = style[0] == "3" and os.environ.get("NO_COLOR")
    return text if is_plain or is_colour else f"\x1b[{style}m{text}\x1b[0m"


def view_for(answer: Answer, thinking: Thinking, hint: str) -> "PlainView":
    """The view for this output. `hint`: how the user can display folded reasoning."""
    if is_terminal(sys.stdout) and os.environ.get("TERM") != "dumb":
        size = os.get_terminal_size(sys.stdout.fileno())
        if size.columns > 1:
            return FoldingView(answer, thinking, hint, size)
    return PlainView(thinking)


class PlainView:
    """Displays an answer in a pipe: the text, and a newline at its end."""

    def __init__(self, thinking: Thinking) -> None:
        self._thinking = thinking
        self._last_characters = {sys.stdout: "\n", sys.stderr: "\n"}

    def show(self, piece: Piece) -> None:
        if piece[0] == "answer":
            self._end_line(sys.stderr)
            self._write(sys.stdout, piece[1])
        elif self._thinking == "keep":
            self._write(sys.stderr, piece[1])

    def end(self) -> None:
        self._end_line(sys.stderr)
        self._end_line(sys.stdout)

    def _write(self, stream: TextIO, text: str) -> None:
        stream.write(text)
        stream.flush()
        self._last_characters[stream] = text[-1]

    def _end_line(self, stream: TextIO) -> None:
        if self._last_characters[stream] != "\n":
            self._write(stream, "\n")


class FoldingView(PlainView):
    """Displays an answer at a terminal: reasoning is dim, and is replaced by one line when the text
    begins."""

    def __init__(
        self, answer: Answer, thinking: Thinking, hint: str, size: os.terminal_size
    ) -> None:
        super().__init__(thinking)
        self._answer = answer
        self._hint = hint
        self._size = size
        self._rows = self._column = 0  # cursor position, relative to the start of the reasoning
        self._answering = False

    def show(self, piece: Piece) -> None:
        kind, text = piece
        if kind == "answer":
            if not self._answering:
                text = text.lstrip("\n")  # models write blank lines after the reasoning
                if not text:
                    return
                self._fold()
            self._answering = True
            self._write(sys.stdout, text)
        elif self._thinking != "hide":
            if not (self._rows or self._column):
                text = text.lstrip("\n")
            self._write_dim(text)

    def _write_dim(self, text: str) -> None:
        """Writes reasoning, wrapped one column before the margin. Terminals wrap wide and combined
        characters differently, so that their own wrapping would make the row count unreliable."""
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
            self._last_characters[sys.stdout] = written[-1]

    def _fold(self) -> None:
        if not (self._rows or self._column):
            return
        seconds, tokens = self._answer.thinking_seconds, self._answer.thinking_tokens
        summary = f"thought for {seconds:.1f} s, {tokens} tokens"
        has_same_size = os.get_terminal_size(sys.stdout.fileno()) == self._size
        if self._thinking == "fold" and has_same_size and self._rows < self._size.lines:
            # Moves the cursor to the start of the reasoning and clears the screen below.
            up = f"\x1b[{self._rows}A" if self._rows else ""
            sys.stdout.write(f"\r{up}\x1b[J")
            summary = f"▸ {summary} ({self._hint})"
        else:
            self._end_line(sys.stdout)
            summary = f"▾ {summary}"
        self._write(sys.stdout, styled(summary, "2", sys.stdout) + "\n")
