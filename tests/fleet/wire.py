"""Follows what the broker does with each task message, by Redis's own MONITOR.

A message that a BRPOP has popped and no worker has put into `unacked` is nowhere: where the worker or the connection
dies in that moment, kombu loses it, whatever is acknowledged when. The server's last word on such a message is that it
was pushed into a queue.
"""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

import redis

_ID = re.compile(r'"id\\*": \\*"([0-9a-f-]{36})')
_PUSHES = ("LPUSH", "RPUSH")
_AGAIN_AFTER_S = 0.01


class Wire:
    """The last word of the broker at `url` on each task; a thread that connects again where the broker was away."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._last: dict[str, str] = {}
        self._stop = threading.Event()
        self._is_listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wire", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._is_listening.wait(5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def was_pushed_last(self, task_id: str) -> bool:
        """Was it, as far as the broker knows, in a queue when it was last heard of?"""
        return self._last.get(task_id) in _PUSHES

    def _run(self) -> None:
        with redis.Redis.from_url(self._url, socket_timeout=0.5) as client:
            while not self._stop.is_set():
                with suppress(redis.RedisError, OSError), client.monitor() as monitor:
                    self._is_listening.set()
                    self._listen(monitor)
                self._stop.wait(_AGAIN_AFTER_S)

    def _listen(self, monitor: redis.client.Monitor) -> None:
        while not self._stop.is_set():
            try:
                command = monitor.next_command()
            except redis.TimeoutError:
                continue
            if command is None:
                continue
            word = command["command"].partition(" ")[0].upper()
            if word in _PUSHES or word == "HSET":
                for task_id in _ID.findall(command["command"]):
                    self._last[task_id] = word
