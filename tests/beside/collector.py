"""What libraries send home to, on loopback: every request is kept as it came, and answered with 200."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One request: its path, its headers by their names in lower case, and its body as it was before compression."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Collector:
    """A server that runs while its block does."""

    received: list[Sent] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _take(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                received.append(Sent(path=self.path, headers=headers, body=_body(self, headers)))
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_GET = do_POST = do_PUT = _take

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="collector", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        """`127.0.0.1:PORT`."""
        assert self._server is not None
        return f"127.0.0.1:{self._server.server_port}"


def _body(request: BaseHTTPRequestHandler, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") == "chunked":
        raw = b""
        while size := int(request.rfile.readline().strip() or b"0", 16):
            raw += request.rfile.read(size)
            request.rfile.readline()
        request.rfile.readline()
    else:
        raw = request.rfile.read(int(headers.get("content-length", "0")))
    match headers.get("content-encoding"):
        case "gzip":
            return gzip.decompress(raw)
        case "deflate":
            return zlib.decompress(raw)
        case _:
            return raw


def sentry_events(received: list[Sent]) -> list[dict[str, Any]]:
    """Every event and transaction in Sentry's envelopes: a line of header, then each item's own and its payload."""
    found = []
    for sent in received:
        if not sent.path.endswith("/envelope/"):
            continue
        rest = sent.body.partition(b"\n")[2]
        while rest.strip():
            head, _, rest = rest.partition(b"\n")
            item = json.loads(head)
            length = item.get("length", len(rest.partition(b"\n")[0]))
            payload, rest = rest[:length], rest[length:].removeprefix(b"\n")
            if item["type"] in ("event", "transaction"):
                found.append({"type": item["type"], **json.loads(payload)})
    return found
