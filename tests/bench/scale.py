"""From a pause's call to its being in force on many followers, beside a bare PUBLISH to as many subscribers.

    python -m tests.bench.scale [--sizes 10,100,1000,10000] [--pauses 20] [--json] [--write]

Each follower has a subscription and a connection of its own (where the machine allows too few open files for that,
several read over one connection, and the table says so), and what it does with a hint and with a state is the
workers' own code (signature, fence, gate); one loop a process serves their sockets, in the place of a thread each.
Valkey, Postgres and the control plane are real, and all of it shares this machine's processors, which a fleet does not.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from sluicegate.control.client import Client
from sluicegate.control.process.stack import Stack
from sluicegate.schemas import settings
from sluicegate.schemas.errors import SluicegateError
from sluicegate.schemas.names import hint_channel
from tests.bench import page

ROOT = Path(__file__).resolve().parents[2]
SIZES = (10, 100, 1000, 10_000)
A_PROCESS = 1000
"""Followers in one process, at most; but never fewer than two processes."""
SPARE_FILES = 500
"""Open files for all but the followers."""
MOST_SHARING = 10
"""Followers that may read over one connection; with more of them there would be little left of a connection each."""
SLOW_FROM = 5000
"""From here on the poll is set to 30 s: on one machine all polls would take more than its processors have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Times of one kind, in milliseconds: of all followers in all pauses, and of the last follower of each pause."""

    p50: float
    p99: float
    last: float
    """The median over the pauses of the last follower."""


class Crowd:
    """Processes with followers in them."""

    def __init__(self, stack: Stack, size: int, kind: str, sharing: int) -> None:
        count = max(2, -(-size // A_PROCESS))
        shares = [size // count + (number < size % count) for number in range(count)]
        environ = stack.environ
        poll_s = "30" if size >= SLOW_FROM else "1"
        arguments = [
            environ[settings.REDIS_URL.name],
            environ[settings.NAMESPACE.name],
            environ[settings.PUBLIC_KEYS.name],
            poll_s,
            poll_s,
            str(sharing),
            kind,
        ]
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.bench.followers", str(share), *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for share in shares
        ]
        for process in self._processes:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise AssertionError("a process of followers did not start")

    def have(self, version: int) -> list[int]:
        """When each follower had `version`, in microseconds; waits until all do."""
        found: list[int] = []
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{version}\n")
            process.stdin.flush()
        for process in self._processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise AssertionError("a process of followers ended, or not all of them got the version in time")
            found += json.loads(line)
        return found

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


@contextmanager
def crowd(stack: Stack, size: int, kind: str, sharing: int = 1) -> Iterator[Crowd]:
    """Followers for the length of the block."""
    made = Crowd(stack, size, kind, sharing)
    try:
        yield made
    finally:
        made.close()


def followers(stack: Stack, size: int, pauses: int, kind: str, sharing: int) -> Spread:
    """From the call of each pause and each resume to its being in force on each follower."""
    with crowd(stack, size, kind, sharing) as made, Client(stack.url, stack.environ[settings.TOKEN.name]) as client:
        made.have(client.read().body.system.version)
        times: list[list[float]] = []
        for number in range(pauses):
            at_us = time.time_ns() // 1000
            if number % 2:
                answer = client.resume(reason="scale", force=True)
            else:
                answer = client.pause(mode="drain", reason="scale")
            times.append([(had - at_us) / 1000 for had in made.have(answer.body.system.version)])
            # Polls and heartbeats of the last round have their turn before the next.
            time.sleep(0.2)
        client.resume(reason="scale", force=True)
    return _spread(times)


def publishes(stack: Stack, size: int, pauses: int) -> Spread:
    """From a bare PUBLISH to each of as many subscribers."""
    environ = stack.environ
    with crowd(stack, size, "bare") as made, redis.Redis.from_url(environ[settings.REDIS_URL.name]) as client:
        channel = hint_channel(environ[settings.NAMESPACE.name])
        times = []
        for number in range(pauses):
            at_us = time.time_ns() // 1000
            client.publish(
                channel, json.dumps({"epoch": 9, "version": 1_000_000 + number, "beat": 1}, separators=(",", ":"))
            )
            times.append([(had - at_us) / 1000 for had in made.have(1_000_000 + number)])
            time.sleep(0.2)
    return _spread(times)


def _spread(times: Sequence[Sequence[float]]) -> Spread:
    ordered = sorted(ms for one in times for ms in one)
    return Spread(
        p50=round(statistics.median(ordered), 1),
        p99=round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 1),
        last=round(statistics.median(max(one) for one in times), 1),
    )


def _sharing(size: int, files: int) -> int:
    """How many followers must read over one connection for a server of `files` open files; raises OSError."""
    left = files - SPARE_FILES - size
    if left < size // MOST_SHARING:
        raise OSError(f"{size} followers need more open files than the {files} that are allowed")
    return max(1, -(-size // left))


def _allow_files(wanted: int) -> int:
    """For this process and all that it starts; how many of those wanted there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
        except ValueError:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def measure(sizes: Sequence[int], pauses: int) -> list[dict[str, Any]]:
    """One row a size."""
    rows = []
    files = _allow_files(2 * max(sizes) + 2 * SPARE_FILES)
    sharing = {size: _sharing(size, files) for size in sizes}
    with (
        tempfile.TemporaryDirectory(prefix="sluicegate-scale-", ignore_cleanup_errors=True) as directory,
        Stack(Path(directory), durable=False, actor="scale") as stack,
    ):
        with redis.Redis.from_url(stack.environ[settings.REDIS_URL.name]) as client:
            least = int(client.config_get("maxclients")["maxclients"])
            client.config_set("maxclients", max(least, files - SPARE_FILES // 2))
        for size in sizes:
            row: dict[str, Any] = {"followers": size, "toAConnection": sharing[size]}
            for kind in ("real", "unchecked"):
                spread = followers(stack, size, pauses, kind, sharing[size])
                row[kind] = {"p50": spread.p50, "p99": spread.p99, "last": spread.last}
            bare = publishes(stack, size, pauses)
            row["bare"] = {"p50": bare.p50, "p99": bare.p99, "last": bare.last}
            rows.append(row)
            print(f"scale: {size} followers: {row}", file=sys.stderr, flush=True)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The table of docs/benchmarks.md."""
    lines = [
        "| followers | call → in force: p50 / p99 / last | without the signature check | bare PUBLISH, the same |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [
            " / ".join(f"{row[kind][column]:.0f}" for column in ("p50", "p99", "last")) + " ms"
            for kind in ("real", "unchecked", "bare")
        ]
        shared = f" ({row['toAConnection']} read over one connection)" if row["toAConnection"] > 1 else ""
        lines.append(f"| {row['followers']:,}{shared} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description="A pause to many followers.")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="how many (default: %(default)s)")
    parser.add_argument("--pauses", type=int, default=20, help="at each size (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--write", action="store_true", help="put the table into docs/")
    options = parser.parse_args(arguments)
    try:
        rows = measure([int(size) for size in options.sizes.split(",")], options.pauses)
    except KeyboardInterrupt:
        return 130
    except (SluicegateError, OSError, AssertionError, ValueError) as error:
        print(f"scale: {error}", file=sys.stderr)
        return 2
    print(json.dumps(rows, indent=2) if options.json else table(rows))
    if options.write:
        page.put("scale", table(rows))
    print(f"{os.cpu_count()} processors", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
