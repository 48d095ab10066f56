"""The circuit breaker before a server that does not answer in time."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from harness import wait_until

from cl_ml_tools.errors import StoreUnavailableError
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis
from cl_ml_tools.stores.redis_jobs import RedisJobStore


@pytest.fixture
def server() -> Iterator[EmbeddedRedis]:
    """A server that may be stopped."""
    with EmbeddedRedis() as server:
        yield server
        os.kill(server.pid, signal.SIGCONT)


def fails(store: RedisJobStore) -> bool:
    try:
        store.get("a")
    except StoreUnavailableError:
        return True
    return False


def test_callers_are_refused_at_once_while_a_server_hangs(server: EmbeddedRedis) -> None:
    with RedisJobStore(server.redis_url, timeout_seconds=1.0) as store:
        assert not fails(store)
        os.kill(server.pid, signal.SIGSTOP)
        assert fails(store)
        start = time.monotonic()
        assert all(fails(store) for _ in range(1000))
        # Each wait would have been two seconds.
        assert time.monotonic() - start < 10


def test_one_caller_tries_a_server_that_hangs_while_the_others_are_refused(server: EmbeddedRedis) -> None:
    with RedisJobStore(server.redis_url, timeout_seconds=0.3) as store:
        os.kill(server.pid, signal.SIGSTOP)
        assert fails(store)
        # Until the next turn nobody is let through, then one caller is.
        refused = "a moment ago"
        messages: list[str] = []

        def ask() -> None:
            try:
                store.get("a")
            except StoreUnavailableError as error:
                messages.append(str(error))

        time.sleep(0.2)
        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(refused not in message for message in messages) == 1


def test_a_server_that_answers_again_is_used_again(server: EmbeddedRedis) -> None:
    with RedisJobStore(server.redis_url, timeout_seconds=0.2) as store:
        os.kill(server.pid, signal.SIGSTOP)
        assert fails(store)
        os.kill(server.pid, signal.SIGCONT)
        wait_until(lambda: not fails(store))
        assert not any(fails(store) for _ in range(100))
