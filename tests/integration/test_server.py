"""The control plane as a process: started from settings, stopped by signals, several at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from sluicegate.control.process.plane import ControlPlane
from sluicegate.schemas.errors import InvalidSetting, InvalidSettings
from tests.integration.serving import SERVE
from tests.integration.world import PAUSE, World, eventually


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_within_five_seconds(world: World, number: signal.Signals) -> None:
    """Exit 0, nothing on stdout but what `ready` printed, and no traceback; an idle client does not hold it up."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVE],
        env=os.environ | world.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            url = process.stdout.readline().strip()
            with httpx.Client(base_url=url) as client:
                assert client.get("/readyz").status_code == 200
                began = time.monotonic()
                process.send_signal(number)
                assert process.wait(5) == 0
                assert time.monotonic() - began < 5
            assert process.stdout.read() == ""
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLUICEGATE_DATABASE_URL", ""),
        ("SLUICEGATE_DATABASE_URL", "sqlite://"),
        ("SLUICEGATE_REDIS_URL", ""),
        ("SLUICEGATE_REDIS_URL", "http://h"),
        ("SLUICEGATE_SIGNING_KEY_FILE", ""),
        ("SLUICEGATE_SIGNING_KEY_FILE", "/nowhere"),
        ("SLUICEGATE_PUBLIC_KEYS", "x"),
        ("SLUICEGATE_BIND", "nowhere"),
        ("SLUICEGATE_LEASE_S", "0"),
        ("SLUICEGATE_NAMESPACE", "a b"),
        ("SLUICEGATE_BROKER_URL", "nonsense://h"),
    ],
)
def test_a_wrong_setting_is_named(world: World, name: str, value: str) -> None:
    """Before anything is started."""
    with pytest.raises(InvalidSetting) as caught:
        ControlPlane(world.environ(**{name: value}))
    assert caught.value.field == name


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    """What is missing, what cannot be parsed, and what only its user can judge."""
    given = {
        "SLUICEGATE_REDIS_URL": "redis://h?foo=1",
        "SLUICEGATE_BROKER_URL": "nonsense://h",
        "SLUICEGATE_SIGNING_KEY_FILE": str(tmp_path / "none"),
        "SLUICEGATE_PUBLIC_KEYS": "x",
        "SLUICEGATE_LEASE_S": "0",
        "SLUICEGATE_BIND": "nowhere",
    }
    with pytest.raises(InvalidSettings) as caught:
        ControlPlane(given)
    told = {error.field for error in caught.value.errors}
    # Where the state is wrong, nothing is known of the broker yet.
    assert told == given.keys() - {"SLUICEGATE_BROKER_URL"} | {"SLUICEGATE_DATABASE_URL"}


def test_serve_tells_what_is_missing_a_line_for_each(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEGATE_")}
    command = [sys.executable, "-m", "sluicegate.control.cli", "serve"]
    text, as_json = (
        subprocess.run([*command, *more], env=clean, cwd=tmp_path, capture_output=True, text=True)
        for more in ([], ["--json"])
    )
    missing = ["SLUICEGATE_REDIS_URL", "SLUICEGATE_DATABASE_URL", "SLUICEGATE_SIGNING_KEY_FILE"]
    assert (text.returncode, as_json.returncode) == (2, 2)
    *lines, hint = text.stderr.splitlines()
    assert [line.split(": is not set")[0] for line in lines] == [f"sluicegate: {name}" for name in missing]
    assert ".sluicegate/control.env" in hint
    assert [told["field"] for told in json.loads(as_json.stderr)["settings"]] == missing


def test_an_address_that_is_taken_is_one_line(world: World) -> None:
    """It names the setting."""
    taken = world.start().url.removeprefix("http://")
    with pytest.raises(InvalidSetting, match="SLUICEGATE_BIND"):
        world.start(SLUICEGATE_BIND=taken)


def test_replicas_share_one_state(world: World) -> None:
    """What one stores, the other tells, and both keep publishing it."""
    one, two = world.start(), world.start()
    assert world.client(one).post("/api/system/worker-pause", json=PAUSE).json()["outcome"] == "applied"
    assert world.client(two, "viewer").get("/api/system/worker-pause").json()["system"]["version"] == 2
    eventually(lambda: all(plane.publisher._published[0] >= world.edition() for plane in (one, two)))
    assert not one.publisher.alarms
    assert not two.publisher.alarms


def test_it_starts_while_redis_is_away_and_says_so(world: World) -> None:
    """Orders are taken, and published when it comes."""
    plane = world.start(SLUICEGATE_REDIS_URL="redis://127.0.0.1:1/0")
    client = world.client(plane)
    assert client.get("/readyz").status_code == 503
    answer = client.post("/api/system/worker-pause", json=PAUSE)
    assert (answer.status_code, answer.json()["published"]) == (200, False)
