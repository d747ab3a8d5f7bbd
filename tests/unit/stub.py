"""A stand-in for the control plane: a real HTTP server that gives the answers a test prepared."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Stub:
    """`routes`: for "METHOD /path", the answers in turn, the last one for ever; `asked`: what came in."""

    url: str = ""
    routes: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    asked: list[tuple[str, Any, str | None]] = field(default_factory=list)

    def answer(self, route: str, *bodies: Any, status: int = 200) -> None:
        """What `route` answers from now on."""
        self.routes[route] = [(status, body) for body in bodies]


@contextmanager
def stub() -> Iterator[Stub]:
    """A running stand-in on a free port."""
    prepared = Stub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._give("GET")

        def do_POST(self) -> None:
            self._give("POST")

        def _give(self, method: str) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            route = f"{method} {self.path.partition('?')[0]}"
            prepared.asked.append((f"{method} {self.path}", body, self.headers.get("authorization")))
            left = prepared.routes[route]
            status, answer = left.pop(0) if len(left) > 1 else left[0]
            raw = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        prepared.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield prepared
        finally:
            server.shutdown()
            thread.join()
