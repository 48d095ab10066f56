"""Runs the Lua scripts of ``scripts/`` on a server, with bounded waiting and one repeat."""

import hashlib
import logging
import re
import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

from redis import Redis
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    DataError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from cl_ml_tools.errors import StoreNotAskedError, StoreUnavailableError
from cl_ml_tools.stores._breaker import CircuitBreaker
from cl_ml_tools.stores._keys import lua_functions, root

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Error replies that say "not now" about the server, not "wrong" about the command: redis-py has classes for most
# of them, and takes their first word away.
_UNAVAILABLE = (
    RedisConnectionError,
    RedisTimeoutError,
    OutOfMemoryError,
    ReadOnlyError,
    ClusterDownError,
    MasterDownError,
    TryAgainError,
)
# Redis 6.2 puts words of its own before the error that a script met, and there is no class for some.
_UNAVAILABLE_REPLY = re.compile(
    r"\b(OOM|MISCONF|READONLY|CLUSTERDOWN|MASTERDOWN|NOREPLICAS|TRYAGAIN|BUSY|LOADING)\b"
)


@cache
def script_source(name: str) -> str:
    """The whole source of an act's script: key names, prelude, body."""
    folder = files("cl_ml_tools.stores") / "scripts"
    prelude = (folder / "_prelude.lua").read_text(encoding="utf-8")
    return f"{lua_functions()}\n{prelude}\n{(folder / f'{name}.lua').read_text(encoding='utf-8')}"


@cache
def _digest(name: str) -> str:
    return hashlib.sha1(script_source(name).encode(), usedforsecurity=False).hexdigest()


class ScriptRunner:
    """Calls one server; every failure to get an answer is a `StoreUnavailableError`.

    Each call is tried twice, the second time only when the first did not use up the whole wait, so that a
    call ends within about two times the client's timeout.
    """

    def __init__(self, client: Redis, prefix: str, timeout_seconds: float) -> None:
        self.client = client
        self._root = root(prefix)
        self._timeout_seconds = timeout_seconds
        self._breaker = CircuitBreaker(timeout_seconds / 2)

    def run(self, name: str, *arguments: str | int) -> Any:
        """The answer of the act's script."""
        return self.run_told(name, *arguments)[0]

    def run_told(self, name: str, *arguments: str | int) -> tuple[Any, bool]:
        """The answer of the act's script, and whether it was asked twice: the first may have done the act."""
        asked = 0

        def evaluate() -> Any:
            nonlocal asked
            asked += 1
            try:
                return self.client.evalsha(_digest(name), 1, self._root, *arguments)
            except NoScriptError:
                return self.client.eval(script_source(name), 1, self._root, *arguments)

        return self.call(evaluate), asked > 1

    def run_each(self, name: str, calls: Sequence[Sequence[str | int]]) -> list[Any]:
        """The answers of the act's script to each of the arguments, in one round trip; not one transaction."""

        def evaluate() -> list[Any]:
            pipeline = self.client.pipeline(transaction=False)
            for arguments in calls:
                pipeline.evalsha(_digest(name), 1, self._root, *arguments)
            return pipeline.execute()

        def evaluate_known() -> list[Any]:
            try:
                return evaluate()
            except NoScriptError:
                self.client.script_load(script_source(name))
                return evaluate()

        return self.call(evaluate_known)

    def call(self, act: Callable[[], T]) -> T:
        """What ``act`` answers; it must be safe to do twice.

        Raises:
            StoreUnavailableError: no answer, or one that says the server cannot serve now.
        """
        self._breaker.enter()
        try:
            return self._tried_twice(act)
        except _UNAVAILABLE as error:
            raise StoreUnavailableError(f"Redis does not answer: {error}") from error
        except ResponseError as error:
            if _UNAVAILABLE_REPLY.search(str(error)):
                raise StoreUnavailableError(f"Redis cannot serve now: {error}") from error
            raise
        except DataError:
            # Raised before anything is sent: a fault of the caller's, which no waiting mends.
            raise
        except RedisError as error:
            raise StoreUnavailableError(f"Redis failed: {error}") from error

    def _tried_twice(self, act: Callable[[], T]) -> T:
        start = time.monotonic()
        failures: list[RedisConnectionError | RedisTimeoutError] = []
        while len(failures) < 2:
            try:
                answer = act()
            except AuthenticationError as error:
                raise StoreUnavailableError(
                    f"Redis refuses us: {error} The password belongs into its URL, as in redis://:PASSWORD@HOST:6379/0."
                ) from error
            except (RedisConnectionError, RedisTimeoutError) as error:
                failures.append(error)
                if time.monotonic() - start > 1.5 * self._timeout_seconds:
                    break
                logger.debug("Redis did not answer: %s", error)
            else:
                self._breaker.succeeded()
                return answer
        last = failures[-1]
        if isinstance(last, RedisTimeoutError):
            self._breaker.timed_out()
        if all(_was_refused(failure) for failure in failures):
            raise StoreNotAskedError(f"Redis does not answer: {last}") from last
        raise last


def _was_refused(error: BaseException | None) -> bool:
    """Whether there was no connection, and so nothing was sent."""
    while error is not None:
        if isinstance(error, ConnectionRefusedError):
            return True
        error = error.__cause__ or error.__context__
    return False
