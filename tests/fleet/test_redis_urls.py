"""Workers whose state and broker are a Redis over TLS, or behind a socket, as people write it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sluicegate.control.process.stack import Stack
from sluicegate.schemas.settings import BROKER_URL, REDIS_URL
from tests.fleet import app as fleet_app
from tests.fleet.harness import Fleet
from tests.fronts import SocketFront, TlsFront, make_certificates
from tests.marks import long


@contextmanager
def fleet_by(stack: Stack, folder: Path, state: str, broker: str) -> Iterator[Fleet]:
    """A fleet whose two URLs are written so, with the ways in of `stack`'s Valkey put into them."""
    port = int(stack.valkey.url.rpartition(":")[2].partition("/")[0])
    databases = {
        name: stack.environ[setting.name].rpartition("/")[2]
        for name, setting in (("state", REDIS_URL), ("broker", BROKER_URL))
    }
    made = make_certificates(folder)
    with TlsFront(port, made) as tls, SocketFront(port, folder / "valkey.sock") as socket:
        values = {"tls": tls.port, "ca": made.ca, "socket": socket.path, "port": port, **databases}
        environ = {REDIS_URL.name: state.format(**values), fleet_app.BROKER: broker.format(**values)}
        with Fleet(stack, environ=environ) as fleet:
            yield fleet


@pytest.mark.parametrize(
    ("state", "broker"),
    [
        (
            "rediss://127.0.0.1:{tls}/{state}?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={ca}",
            "rediss://127.0.0.1:{tls}/{broker}?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={ca}",
        ),
        ("unix://{socket}?db={state}", "redis+socket://{socket}?virtual_host={broker}"),
        long("rediss://127.0.0.1:{tls}/{state}?ssl_cert_reqs=CERT_NONE", "rediss://127.0.0.1:{tls}/{broker}"),
        long("redis+socket://{socket}?virtual_host={state}", "redis://127.0.0.1:{port}/{broker}"),
    ],
    ids=["TLS", "sockets", "unverified TLS", "Celery's socket"],
)
def test_s1_s5_s6_l3_a_busy_worker_drains_and_resumes(stack: Stack, tmp_path: Path, state: str, broker: str) -> None:
    with fleet_by(stack, tmp_path, state, broker) as fleet:
        fleet.watch()
        fleet.start()
        fleet.wait_open()
        with fleet.fed(0.02):
            fleet.wait_more_started(30)
            fleet.pause()
            assert fleet.wait_drained().contents.queued
            fleet.resume()
        fleet.wait_done()
        verdict = fleet.check()
    assert verdict.broken == {}
    assert verdict.ended == len(fleet.sent)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("rediss://:secret@127.0.0.1:{tls}/0?ssl_ca_certs=/nowhere", "ssl_ca_certs"),
        ("redis://:secret@127.0.0.1:{port}/0?foo=1", "`foo`"),
        long("redis://:secret/@127.0.0.1:{port}/0", "behind its host"),
    ],
)
def test_a_url_by_which_nothing_is_reached_is_refused_in_one_line(
    stack: Stack, tmp_path: Path, state: str, says: str
) -> None:
    command = [sys.executable, "-m", "celery", "-A", fleet_app.MODULE, "worker", "-P", "solo", "-n", "w1@refused"]
    with fleet_by(stack, tmp_path, state, "redis://127.0.0.1:{port}/{broker}") as fleet:
        ended = fleet.run(command)
    assert ended.returncode == 2
    (line,) = [line for line in ended.stderr.splitlines() if REDIS_URL.name in line]
    assert line.startswith(f"sluicegate: {REDIS_URL.name}: ")
    assert says in line
    assert "secret" not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
