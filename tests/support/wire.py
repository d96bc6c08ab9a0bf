"""What a client sees, byte by byte: a raw HTTP client, and a reader of frames for assertions."""

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    pieces: list[bytes] = field(default_factory=list)  # one for each chunk of HTTP's framing
    closed: bool = False  # the server closed the connection behind it

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def frames(self) -> list[bytes]:
        assert self.body.endswith(b"\n\n"), self.body[-100:]
        return self.body[:-2].split(b"\n\n")

    @property
    def done(self) -> bool:
        return self.frames[-1] == b"data: [DONE]"

    @property
    def events(self) -> list[dict[str, Any]]:
        """Data frames but for [DONE]; checks that each is one line of JSON."""
        events = []
        for frame in self.frames:
            if frame.startswith(b":") or frame == b"data: [DONE]":
                continue
            assert frame.startswith(b"data: {"), frame
            assert len(frame.decode().splitlines()) == 1, frame
            events.append(json.loads(frame[6:]))
        return events

    @property
    def comments(self) -> list[bytes]:
        return [frame for frame in self.frames if frame.startswith(b":")]

    @property
    def error(self) -> dict[str, Any] | None:
        if self.headers.get("content-type", "").startswith("application/json"):
            return self.json.get("error")
        return self.events[-1].get("error") if self.events else None

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [event for event in self.events if "error" not in event]

    def text(self, choice: int = 0, member: str = "content") -> str:
        return "".join(
            each["delta"].get(member) or ""
            for chunk in self.chunks
            for each in chunk["choices"]
            if each["index"] == choice
        )

    def finishes(self, choice: int = 0) -> list[str]:
        return [
            each["finish_reason"]
            for chunk in self.chunks
            for each in chunk["choices"]
            if each["index"] == choice and each["finish_reason"] is not None
        ]


class Wire:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, **options: Any) -> "Wire":
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 24, **options))

    async def __aenter__(self) -> "Wire":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> tuple[int, dict[str, str]]:
        status = await self.reader.readline()
        if not status:
            raise EOFError
        headers: dict[str, str] = {}
        while (line := await self.reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return int(status.split()[1]), headers

    async def chunk(self) -> bytes:
        """One chunk of a chunked body; b"" at its end."""
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def answer(self, *, head_only: bool = False) -> Answer:
        status, headers = await self.head()
        while 100 <= status < 200:
            status, headers = await self.head()
        pieces: list[bytes] = []
        if head_only or status == 204:
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while piece := await self.chunk():
                pieces.append(piece)
        elif "content-length" in headers:
            pieces.append(await self.reader.readexactly(int(headers["content-length"])))
        else:
            pieces.append(await self.reader.read())
        closed = headers.get("connection") == "close" and await self.reader.read() == b""
        return Answer(status, headers, b"".join(pieces), pieces, closed)


def request(
    key: str | None,
    body: dict[str, Any] | bytes,
    *,
    path: str = "/v1/chat/completions",
    method: str = "POST",
    version: str = "1.1",
    **headers: str,
) -> bytes:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/{version}", "host: test", f"content-length: {len(payload)}"]
    if key is not None:
        lines.append(f"authorization: Bearer {key}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + payload


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], **more}


async def ask(port: int, key: str | None, body: dict[str, Any] | bytes, **more: Any) -> Answer:
    async with await Wire.open(port) as wire:
        wire.send(request(key, body, **more))
        return await wire.answer()
