"""The circuit breaker before a server that does not answer in time."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from harness import free_port, wait_until

from cl_ml_tools import Job
from cl_ml_tools.errors import StoreNotAskedError, StoreUnavailableError
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


def test_a_job_that_no_server_could_be_asked_to_store_is_told_as_that(server: EmbeddedRedis) -> None:
    job = Job(job_id="a", task_type="probe", params={})
    nowhere = f"redis://127.0.0.1:{free_port()}"
    with RedisJobStore(nowhere, timeout_seconds=1.0) as store, pytest.raises(StoreNotAskedError):
        store.add(job)
    with RedisJobStore(server.redis_url, timeout_seconds=0.3) as store:
        assert not fails(store)
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(StoreNotAskedError):
            store.add(job)  # its time was asked for, in vain


def test_a_job_that_a_server_may_have_stored_is_not_told_as_never_asked_for(server: EmbeddedRedis) -> None:
    with RedisJobStore(server.redis_url, timeout_seconds=0.3) as store:
        store.add(Job(job_id="a", task_type="probe", params={}))
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(StoreUnavailableError) as told:
            store.add(Job(job_id="b", task_type="probe", params={}))
        assert not isinstance(told.value, StoreNotAskedError)


def test_a_server_that_asks_for_a_password_is_told_with_the_next_step(server: EmbeddedRedis) -> None:
    with RedisJobStore(server.redis_url) as store:
        store.client.config_set("requirepass", "secret")
    told = pytest.raises(StoreUnavailableError, match="The password belongs into its URL")
    with RedisJobStore(server.redis_url) as stranger, told:
        stranger.get("a")
