"""`scripts/bench padding`: the sizes of frames with and without padding, as a client receives them.

Legato relays a stream in which every piece of English text that may be a token is a chunk: words
with the space before them, and punctuation. The sizes are the same every time.
"""

import argparse
import http.client
import json
import re
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec.structs import replace

from bench import plot
from bench.gateways import ROOT, BenchError, Legato
from bench.workloads import W1

#: English text that is always available.
TEXT: Final = ROOT / "LICENSE"
PIECE: Final = re.compile(r" ?[A-Za-z]{1,12}| ?[0-9]|\s+|[^\sA-Za-z0-9]+")


def _chunk(delta: dict[str, str], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1_800_000_000}
    data = json.dumps(chunk | {"model": "bench", "choices": [choice]})
    return f"data: {data}\n\n".encode()


class Upstream:
    """Answers every call with a stream of `pieces`, a chunk each."""

    def __init__(self, pieces: Sequence[str]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                self.wfile.write(_chunk({"role": "assistant", "content": ""}, None))
                for piece in pieces:
                    self.wfile.write(_chunk({"content": piece}, None))
                self.wfile.write(_chunk({}, "stop") + b"data: [DONE]\n\n")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Logs nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> "Upstream":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def sizes(pieces: Sequence[str], folder: Path, *, pads: bool) -> Counter[int]:
    """How many frames with text there are of each size, in bytes. Raises `BenchError` if they are
    not one for each piece."""
    padding = "on" if pads else "off"
    workload = replace(W1, settings=f'[streams]\npadding = "{padding}"')
    legato = Legato(folder / padding)
    with Upstream(pieces) as upstream:
        try:
            legato.start(upstream.port, None, workload)
            frames = _frames(legato)
        finally:
            legato.stop()
    found = Counter(len(frame) for frame in frames if _has_text(frame))
    if found.total() != len(pieces):
        raise BenchError(f"{found.total()} frames for {len(pieces)} pieces of text")
    return found


def _frames(legato: Legato) -> list[bytes]:
    where = urlsplit(legato.url)
    connection = http.client.HTTPConnection(where.netloc, timeout=30)
    body = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"authorization": f"Bearer {legato.key}", "content-type": "application/json"}
    connection.request("POST", f"{where.path}/chat/completions", json.dumps(body), headers)
    events = connection.getresponse().read().split(b"\n\n")
    connection.close()
    return [event + b"\n\n" for event in events if event.startswith(b"data: {")]


def _has_text(frame: bytes) -> bool:
    choices = json.loads(frame[len("data: ") :]).get("choices")
    return bool(choices and choices[0]["delta"].get("content"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench padding", description=__doc__)
    plot.add_option(parser, ROOT / "docs")
    given = parser.parse_args()
    if given.plots:
        plot.required()
    pieces = PIECE.findall(TEXT.read_text())
    with tempfile.TemporaryDirectory(prefix="legato-bench-") as folder:
        plain, padded = (sizes(pieces, Path(folder), pads=pads) for pads in (False, True))
    print(f"without padding: {len(plain)} sizes, {min(plain)} to {max(plain)} bytes")
    print(f"with padding: {', '.join(f'{n:,} of {size} bytes' for size, n in padded.items())}")
    if given.plots:
        shares = {
            name: {size: 100 * count / len(pieces) for size, count in found.items()}
            for name, found in (("without padding", plain), ("with padding", padded))
        }
        file = given.plots / "padding.svg"
        title = f"Sizes of {len(pieces):,} frames, one token each"
        plot.histogram(file, title, "bytes of a frame", "% of the frames", shares)
        print(f"written: {file}")
    return 0
