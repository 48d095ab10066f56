"""Task events for Flower: all of them arrive, many at a time."""

import socket
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from harness import Environment, Process, wait_until
from kombu.asynchronous import Hub
from kombu.asynchronous.timer import Timer

from cl_ml_tools.app import create_celery_app
from cl_ml_tools.celery_bridge.paced_events import PacedEventsStep
from cl_ml_tools.settings import Settings
from cl_ml_tools.stores.redis_jobs import RedisJobStore


@pytest.mark.redis_broker
def test_all_events_of_many_short_jobs_arrive_in_few_messages_the_last_at_a_shutdown_too(
    start_worker: Callable[..., Process],
    submit: Callable[..., str],
    store: RedisJobStore,
    environment: Environment,
) -> None:
    app = create_celery_app(Settings.from_environment(environment.variables))
    seen: list[tuple[str, str]] = []
    over = threading.Event()

    def watch() -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(
                connection, handlers={"*": lambda event: seen.append((event["type"], event.get("uuid", "")))}
            )
            while not over.is_set():
                try:
                    receiver.capture(limit=None, timeout=1, wakeup=False)
                except TimeoutError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        client: Any = store.client
        wait_until(lambda: client.pubsub_channels() or client.pubsub_numpat(), why="somebody listens")
        ids = [submit() for _ in range(60)]
        client.config_resetstat()
        worker = start_worker("-c", "1")
        wait_until(lambda: client.zcard(store.keys("status", "completed")) == 60, why="all are done")
        worker.popen.terminate()
        worker.popen.wait(30)
        told = client.info("commandstats")["cmdstat_publish"]["calls"]
        kinds = ("task-received", "task-started", "task-succeeded")
        wait_until(
            lambda: {(kind, job_id) for kind in kinds for job_id in ids} <= set(seen), why="all arrive"
        )
        # Celery alone sends about two for each job.
        assert told < 60
    finally:
        over.set()
        watcher.join()


def test_an_event_of_a_pool_thread_does_not_wait_until_the_event_loop_wakes() -> None:
    sent = threading.Event()
    hub: Any = Hub(timer=Timer(max_interval=60))
    dispatcher = SimpleNamespace(flush=sent.set, on_send_buffered=None)
    consumer = SimpleNamespace(event_dispatcher=dispatcher, hub=hub)
    PacedEventsStep(consumer).start(consumer)
    ours, others = socket.socketpair()
    hub.add_reader(ours, lambda: None)  # without one it does not sleep
    hub.call_later(60, lambda: None)  # so long it would, or for kombu's 10 s
    asleep, poll = threading.Event(), hub.poller.poll

    def watched_poll(timeout: float) -> Any:
        asleep.set()
        return poll(timeout)

    hub.poller.poll = watched_poll
    loop = threading.Thread(target=hub.run_forever, daemon=True)
    loop.start()
    try:
        assert asleep.wait(5)
        time.sleep(0.05)  # from the mark to its sleep; nothing tells of that
        dispatcher.on_send_buffered()
        assert sent.wait(5)
    finally:
        hub.stop()
        loop.join(5)
        hub.close()
        ours.close()
        others.close()
