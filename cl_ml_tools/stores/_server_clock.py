"""The server's time, as far as it is known here, and commands that must not be executed too late."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis import Redis

from cl_ml_tools.errors import StoreNotAskedError, StoreUnavailableError
from cl_ml_tools.stores._keys import KeyNames
from cl_ml_tools.stores._scripts import ScriptRunner

TRUSTED_SECONDS = 60.0
"""How long what is known of the server's time is trusted."""


class ServerClock:
    """Known from the server's latest answer; never ahead of it, so that deadlines err early."""

    def __init__(self, client: Redis, scripts: ScriptRunner, keys: KeyNames, timeout_seconds: float) -> None:
        self._client = client
        self._scripts = scripts
        self._keys = keys
        self._timeout_seconds = timeout_seconds
        self._difference_ms = 0.0
        self._learned_at = -math.inf

    def ask(self) -> int:
        """The server's time, ms since 1970."""
        seconds, microseconds = self._scripts.call(self._client.time)
        offset: Any = self._scripts.call(lambda: self._client.hget(self._keys("meta"), "time_offset_ms"))
        return seconds * 1000 + microseconds // 1000 + int(offset or 0)

    def in_time(self, ask: Callable[[int], Sequence[Any]]) -> Sequence[Any]:
        """The answer of a script that is told when its caller has given up (server time, ms).

        Asked once more when it comes ``late`` although it came soon: then the known difference of the clocks
        was stale, after a failover, say. A script that answers ``late`` tells its time last.

        Raises:
            StoreNotAskedError: the server's time cannot be had.
        """
        answer: Sequence[Any] = ()
        for _ in range(2):
            asked_at = time.monotonic()
            # Asked for now and then: two clocks drift apart.
            if asked_at > self._learned_at + TRUSTED_SECONDS:
                try:
                    self._learn(self.ask())
                except StoreUnavailableError as error:
                    raise StoreNotAskedError(str(error)) from error
            now = math.floor(self._difference_ms + time.monotonic() * 1000)
            answer = ask(now + int(2000 * self._timeout_seconds))
            if answer[0] != "late":
                break
            self._learn(int(answer[-1]))
            if time.monotonic() - asked_at > self._timeout_seconds:
                break
        return answer

    def _learn(self, server_ms: int) -> None:
        self._learned_at = time.monotonic()
        self._difference_ms = server_ms - self._learned_at * 1000
