"""Connections of strangers: they are few, they end, they are told of in a few lines, and they lock nobody out."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from sluicegate.control.access import tokens
from tests.integration.serving import SERVE
from tests.integration.world import PAUSE, World, eventually

PATH = "/api/system/worker-pause"
OPEN_FILES = 200
POST = b"POST /api/system/worker-pause HTTP/1.1\r\nHost: x\r\n"
HALF_SENT = {
    "no byte": b"",
    "half a head": b"GET /api/workers HTTP/1.1\r\nHost: x\r\n",
    "half a body": POST + b"Content-Length: 9999\r\n\r\n{",
    "a body without an end": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    "no HTTP": b"\x16\x03\x01 hello\r\n\r\n",
}


@dataclass(frozen=True)
class Served:
    """A control plane that may have few files open, with where it answers and what it has logged."""

    url: str
    log: Path
    process: subprocess.Popen[str]

    def connect(self, sent: bytes = b"") -> socket.socket:
        address = urlsplit(self.url)
        made = socket.create_connection((str(address.hostname), address.port or 0), timeout=5)
        made.sendall(sent)
        return made

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()


@contextmanager
def served(world: World, log: Path, *, seconds: float = 10) -> Iterator[Served]:
    """It answers when the block begins; `seconds` is how long it waits for what a client has begun."""
    fewer = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({OPEN_FILES}, {OPEN_FILES})); "
    waits = f"from sluicegate.control.http import connections; connections.RECEIVE_S = {seconds}; "
    logs = "import logging; logging.basicConfig(level=logging.INFO); "
    with (
        log.open("w") as output,
        subprocess.Popen(
            [sys.executable, "-c", fewer + waits + logs + SERVE],
            env=os.environ | world.environ(),
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http://")
            yield Served(url, log, process)
        finally:
            process.send_signal(signal.SIGKILL)


@pytest.fixture(autouse=True)
def _room_for_the_strangers() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))


def test_more_strangers_than_open_files_lock_no_operator_out(world: World, tmp_path: Path) -> None:
    """An operator comes in at once, and the log stays short; the one who came before is not cut off either."""
    token = tokens.create(world.database_url, "alice", "operator")
    headers = {"Authorization": f"Bearer {token}"}
    with served(world, tmp_path / "log") as plane, httpx.Client(base_url=plane.url, headers=headers) as before:
        assert before.get(PATH).status_code == 200
        strangers = []
        try:
            for sent in [*HALF_SENT.values()] * 70:
                strangers.append(plane.connect())
                with suppress(OSError):  # cut off already
                    strangers[-1].sendall(sent)
            began = time.monotonic()
            answer = httpx.post(plane.url + PATH, json=PAUSE, headers=headers, timeout=10)
            assert (answer.status_code, answer.json()["outcome"]) == (200, "applied")
            assert time.monotonic() - began < 5
            assert before.get(PATH).status_code == 200
        finally:
            for one in strangers:
                one.close()
        eventually(lambda: httpx.get(plane.url + PATH, headers=headers).status_code == 200)
        said = plane.lines()
        assert len(said) < 40, "\n".join(said[:60])
        assert not any("Traceback" in line for line in said)


@pytest.mark.parametrize("is_known", [False, True])
def test_what_a_client_began_must_come_in_time(world: World, tmp_path: Path, is_known: bool) -> None:
    """Also where it goes on a byte at a time, and whoever it is; the log has a few lines for all of them."""
    all_sent = list(HALF_SENT.values())
    if is_known:
        token = tokens.create(world.database_url, "alice", "operator")
        all_sent = [_with(token, sent) for sent in all_sent]
    with served(world, tmp_path / "log", seconds=1) as plane:
        for client in [plane.connect(sent) for sent in all_sent * 6]:
            with client:
                client.settimeout(0.1)
                assert eventually(partial(_is_over, client), within_s=20)
        assert len(plane.lines()) < 30
        assert not any("Traceback" in line for line in plane.lines())


def _with(token: str, sent: bytes) -> bytes:
    return sent.replace(b"Host: x", b"Host: x\r\nAuthorization: Bearer " + token.encode())


def _is_over(client: socket.socket) -> bool:
    """Was it closed? Else a byte more is sent."""
    try:
        if client.recv(65_536) == b"":
            return True
        client.sendall(b"x")
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


def test_an_answer_must_be_taken_in_time(world: World, tmp_path: Path) -> None:
    """One who asks on and on and reads nothing is cut off."""
    with served(world, tmp_path / "log", seconds=1) as plane, plane.connect() as client:
        client.settimeout(0.1)

        def asks_on() -> bool:
            try:
                client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
            except TimeoutError:
                return False
            except OSError:
                return True
            return False

        assert eventually(asks_on, within_s=30)


def test_an_aborted_request_is_not_a_traceback(world: World, tmp_path: Path) -> None:
    """Of a caller who goes away in the midst of a body nothing is said, or one line for a few of them."""
    sent = _with(tokens.create(world.database_url, "alice", "operator"), HALF_SENT["half a body"])
    with served(world, tmp_path / "log") as plane:
        for _ in range(50):
            plane.connect(sent).close()
        assert httpx.get(plane.url + "/healthz").status_code == 200
        plane.process.send_signal(signal.SIGTERM)
        assert plane.process.wait(20) == 0
        assert len(plane.lines()) < 25
        assert not any("Traceback" in line for line in plane.lines())


def test_a_stranger_is_answered_before_the_body_has_come(world: World, tmp_path: Path) -> None:
    """The token is looked at first."""
    with served(world, tmp_path / "log") as plane, plane.connect(HALF_SENT["half a body"]) as client:
        client.settimeout(8)
        assert client.recv(65_536).startswith(b"HTTP/1.1 401")
