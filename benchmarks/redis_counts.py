"""Counts the commands and round trips that a Redis server sees."""

import queue
import re
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any, Self

from redis import Redis

_LINE = re.compile(rb"\+[\d.]+ \[\d+ (\S+?)\] ")
_MARK = b"benchmark-mark"


@dataclass
class Counts:
    """What a server was asked.

    Attributes:
        commands: by its clients.
        in_scripts: by the scripts that these called.
        round_trips: how often it read from a client; a pipeline is one.
    """

    commands: int
    in_scripts: int
    round_trips: int

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(
            self.commands - other.commands,
            self.in_scripts - other.in_scripts,
            self.round_trips - other.round_trips,
        )


class CommandCounter:
    """Reads ``MONITOR``, which tells the commands of clients from those of scripts; it slows the server down."""

    def __init__(self, client: "Redis") -> None:
        self._client = client
        self._commands = self._in_scripts = 0
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(client.connection_pool.connection_kwargs["path"])
        self._marks: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def counts(self) -> Counts:
        """What was asked so far. Costs two commands, one round trip."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.echo(_MARK)
        pipeline.info("stats")
        stats: Any = pipeline.execute()[1]
        # At the very same moment; the lines may come late.
        commands, in_scripts = self._marks.get(timeout=30)
        return Counts(commands, in_scripts, stats["total_reads_processed"])

    def __enter__(self) -> Self:
        self._socket.sendall(b"MONITOR\r\n")
        self._thread.start()
        time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        with self._socket.makefile("rb") as lines:
            for line in lines:
                if (found := _LINE.match(line)) is None:
                    continue
                if found[1] == b"lua":
                    self._in_scripts += 1
                    continue
                self._commands += 1
                if _MARK in line:
                    self._marks.put((self._commands, self._in_scripts))
