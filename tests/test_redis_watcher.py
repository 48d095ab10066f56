"""Following jobs through the stream of events."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cl_ml_tools.common.job_leases import Outcome, Owner, RequeueCause
from cl_ml_tools.common.job_watcher import JobEvent, JobWatcher
from cl_ml_tools.common.schemas import Job, JobStatus
from cl_ml_tools.errors import StoreUnavailableError
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.stores.redis_watcher import RedisJobWatcher

HERE = Owner("here", 7)
FAILED = Outcome(JobStatus.ERROR, error_message="no such colour")
SECONDS = 10.0
"""Longer than anything here takes: a watch that misses its event fails instead of waiting for ever."""


def add(store: RedisJobStore, job_id: str = "a") -> None:
    store.add(Job(job_id=job_id, task_type="probe", params={}))


def claim(store: RedisJobStore, job_id: str = "a", *, token: str = "t") -> None:
    store.claim(job_id, token=token, owner=HERE, sequence=0, lease_seconds=30)


def crash(store: RedisJobStore, job_id: str = "a") -> None:
    store.requeue(job_id, owner=HERE, cause=RequeueCause.CRASHED, detail="signal 9")


def finish(store: RedisJobStore, job_id: str = "a", *, token: str = "t") -> None:
    store.finish(job_id, token=token, outcome=FAILED)


def live(store: RedisJobStore, job_id: str = "a") -> list[str]:
    """All that can happen to a queued job, up to its end; returns the statuses that a watcher has to see."""
    claim(store, job_id, token="t1")
    crash(store, job_id)
    claim(store, job_id, token="t2")
    finish(store, job_id, token="t2")
    return ["processing", "queued", "processing", "error"]


def raw(store: RedisJobStore) -> Any:
    """The store's client, without redis-py's types, which say bytes where we have text."""
    return store.client


def last_event(store: RedisJobStore) -> str:
    ((event_id, _),) = raw(store).xrevrange(store.keys("events"), count=1)
    return str(event_id)


@asynccontextmanager
async def watching(server: EmbeddedRedis) -> AsyncIterator[RedisJobWatcher]:
    watcher = RedisJobWatcher(server.redis_url)
    async with asyncio.timeout(SECONDS):
        try:
            yield watcher
        finally:
            await watcher.close()


async def rest(events: AsyncIterator[JobEvent]) -> list[JobEvent]:
    return [event async for event in events]


def statuses(events: list[JobEvent]) -> list[str]:
    return ["deleted" if event.deleted else str(event.status) for event in events]


def test_the_watcher_is_one(redis_server: EmbeddedRedis) -> None:
    async def follow() -> None:
        async with watching(redis_server) as watcher:
            assert isinstance(watcher, JobWatcher)

    asyncio.run(follow())


def test_a_watch_begins_with_how_the_job_stands(store: RedisJobStore, redis_server: EmbeddedRedis) -> None:
    add(store)
    claim(store)
    store.report("a", token="t", progress=40)

    async def follow() -> JobEvent:
        async with watching(redis_server) as watcher:
            return await anext(watcher.watch("a"))

    first = asyncio.run(follow())
    assert first == JobEvent(last_event(store), "a", JobStatus.PROCESSING, 40)


def test_a_watch_tells_every_change_of_status_in_order_and_ends_with_the_last(
    store: RedisJobStore, redis_server: EmbeddedRedis
) -> None:
    add(store)

    async def follow() -> tuple[list[str], list[JobEvent]]:
        async with watching(redis_server) as watcher:
            events = watcher.watch("a")
            assert (await anext(events)).status == "queued"
            return live(store), await rest(events)

    expected, seen = asyncio.run(follow())
    assert statuses(seen) == expected
    assert [event.is_last for event in seen] == [False, False, False, True]
    assert seen[-1].event_id == last_event(store)


def test_progress_is_told_and_never_goes_back(store: RedisJobStore, redis_server: EmbeddedRedis) -> None:
    add(store)
    claim(store)

    async def follow() -> list[JobEvent]:
        async with watching(redis_server) as watcher:
            events = watcher.watch("a")
            await anext(events)
            store.report("a", token="t", progress=30)
            assert (await anext(events)).progress == 30
            for progress in range(31, 99):
                store.report("a", token="t", progress=progress)
            finish(store)
            return await rest(events)

    seen = asyncio.run(follow())
    progress = [event.progress for event in seen]
    assert progress == sorted(progress)
    assert statuses(seen)[-1] == "error"
    assert seen[-1].progress == 98


def test_a_job_at_its_end_tells_only_that(store: RedisJobStore, redis_server: EmbeddedRedis) -> None:
    add(store)
    claim(store)
    finish(store)

    async def follow() -> list[JobEvent]:
        async with watching(redis_server) as watcher:
            return await rest(watcher.watch("a"))

    assert statuses(asyncio.run(follow())) == ["error"]


@pytest.mark.parametrize("hidden", [False, True], ids=["absent", "deleted while it runs"])
def test_the_watch_of_an_unknown_job_ends_at_once(
    store: RedisJobStore, redis_server: EmbeddedRedis, hidden: bool
) -> None:
    if hidden:
        add(store)
        claim(store)
        store.delete("a")

    async def follow() -> list[JobEvent]:
        async with watching(redis_server) as watcher:
            return await rest(watcher.watch("a")) + await rest(watcher.watch("a", after="1-0"))

    assert asyncio.run(follow()) == []


@pytest.mark.parametrize("running", [False, True], ids=["queued", "running"])
def test_a_deleted_job_is_told_and_ends_the_watch(
    store: RedisJobStore, redis_server: EmbeddedRedis, running: bool
) -> None:
    add(store)
    if running:
        claim(store)

    async def follow() -> list[JobEvent]:
        async with watching(redis_server) as watcher:
            events = watcher.watch("a")
            await anext(events)
            store.delete("a")
            return await rest(events)

    (deletion,) = asyncio.run(follow())
    assert deletion.deleted
    assert deletion.is_last
    assert deletion.status == ("processing" if running else "queued")


def test_a_watch_that_is_resumed_misses_no_change_of_status(
    store: RedisJobStore, redis_server: EmbeddedRedis
) -> None:
    add(store)
    add(store, "other")
    after = last_event(store)
    add(store, "later")
    before = raw(store).xrange(store.keys("events"))[0][0]
    expected = live(store)
    live(store, "other")

    async def follow() -> tuple[list[JobEvent], list[JobEvent]]:
        async with watching(redis_server) as watcher:
            return await rest(watcher.watch("a", after=after)), await rest(watcher.watch("a", after=before))

    for seen in asyncio.run(follow()):
        assert statuses(seen) == expected


def test_a_watch_that_is_resumed_at_the_last_event_begins_with_what_comes_next(
    store: RedisJobStore, redis_server: EmbeddedRedis
) -> None:
    add(store)
    after = last_event(store)

    async def follow() -> list[JobEvent]:
        async with watching(redis_server) as watcher:
            resumed = asyncio.create_task(rest(watcher.watch("a", after=after)))
            # Another watch shows that the tail runs.
            assert (await anext(watcher.watch("a"))).status == "queued"
            live(store)
            return await resumed

    assert statuses(asyncio.run(follow())) == ["processing", "queued", "processing", "error"]


def test_a_watch_that_is_resumed_after_the_end_ends_without_a_word(
    store: RedisJobStore, redis_server: EmbeddedRedis
) -> None:
    add(store)
    live(store)

    async def follow() -> list[JobEvent]:
        async with watching(redis_server) as watcher:
            return await rest(watcher.watch("a", after=last_event(store)))

    assert asyncio.run(follow()) == []


def test_a_watch_that_is_resumed_after_a_retry_goes_on(
    store: RedisJobStore, redis_server: EmbeddedRedis
) -> None:
    add(store)
    live(store)
    after = last_event(store)
    store.retry("a")
    claim(store, token="t3")
    finish(store, token="t3")

    async def follow() -> list[JobEvent]:
        async with watching(redis_server) as watcher:
            return await rest(watcher.watch("a", after=after))

    assert statuses(asyncio.run(follow())) == ["queued", "processing", "error"]


def test_a_watch_that_is_resumed_past_the_streams_end_begins_with_how_the_job_stands(
    store: RedisJobStore, redis_server: EmbeddedRedis
) -> None:
    add(store)
    after = last_event(store)
    claim(store)
    crash(store)
    claim(store, token="t2")
    raw(store).xtrim(store.keys("events"), maxlen=1, approximate=False)

    async def follow() -> JobEvent:
        async with watching(redis_server) as watcher:
            return await anext(watcher.watch("a", after=after))

    assert asyncio.run(follow()).status == "processing"


def test_a_watch_that_is_resumed_with_an_id_from_the_future_begins_with_how_the_job_stands(
    store: RedisJobStore, redis_server: EmbeddedRedis
) -> None:
    add(store)
    live(store)

    async def follow() -> list[JobEvent]:
        async with watching(redis_server) as watcher:
            return await rest(watcher.watch("a", after="9999999999999-0"))

    assert statuses(asyncio.run(follow())) == ["error"], "the record was restored from an older copy, say"


def test_many_watches_use_a_handful_of_connections(store: RedisJobStore, redis_server: EmbeddedRedis) -> None:
    add(store)
    add(store, "b")
    before = len(raw(store).client_list())

    async def follow() -> tuple[int, list[list[JobEvent]]]:
        async with watching(redis_server) as watcher:
            watches = [watcher.watch(job_id) for job_id in ["a"] * 100 + ["b"] * 100]
            await asyncio.gather(*(anext(events) for events in watches))
            connections = len(raw(store).client_list())
            live(store)
            live(store, "b")
            return connections, await asyncio.gather(*(rest(events) for events in watches))

    connections, seen = asyncio.run(follow())
    assert connections - before <= 5
    assert [statuses(events)[-1] for events in seen] == ["error"] * 200
    assert all(statuses(events) == ["processing", "queued", "processing", "error"] for events in seen)


def test_watches_of_other_jobs_are_not_disturbed(store: RedisJobStore, redis_server: EmbeddedRedis) -> None:
    add(store)
    add(store, "b")

    async def follow() -> list[JobEvent]:
        async with watching(redis_server) as watcher:
            events = watcher.watch("a")
            await anext(events)
            live(store, "b")
            claim(store)
            finish(store)
            return await rest(events)

    seen = asyncio.run(follow())
    assert statuses(seen) == ["processing", "error"]
    assert {event.job_id for event in seen} == {"a"}


def test_a_watch_that_is_left_leaves_nothing_behind(
    store: RedisJobStore, redis_server: EmbeddedRedis
) -> None:
    add(store)

    async def follow() -> None:
        async with watching(redis_server) as watcher:
            events = watcher.watch("a")
            await anext(events)
            await events.aclose()  # type: ignore[attr-defined]  # it is a generator
            waiting = asyncio.create_task(rest(watcher.watch("a")))
            assert (await anext(watcher.watch("a"))).status == "queued"
            # Repeated: asyncio.wait_for, which redis-py uses, swallows a cancellation now and then on Python 3.11.
            while not waiting.done():
                waiting.cancel()
                await asyncio.wait([waiting], timeout=0.1)
            live(store)
            assert statuses(await rest(watcher.watch("a"))) == ["error"]

    asyncio.run(follow())


def test_close_ends_all_watches(store: RedisJobStore, redis_server: EmbeddedRedis) -> None:
    add(store)

    async def follow() -> list[JobEvent]:
        async with watching(redis_server) as watcher:
            events = watcher.watch("a")
            await anext(events)
            waiting = asyncio.create_task(rest(events))
            await asyncio.sleep(0)  # let it wait
            await watcher.close()
            return await waiting

    assert asyncio.run(follow()) == []


def test_killed_connections_make_no_watch_miss_a_change_of_status(
    store: RedisJobStore, redis_server: EmbeddedRedis
) -> None:
    add(store)

    async def follow() -> tuple[list[str], list[list[JobEvent]]]:
        async with watching(redis_server) as watcher:
            watches = [watcher.watch("a") for _ in range(3)]
            for events in watches:
                await anext(events)
            raw(store).client_kill_filter(_type="normal")
            expected = live(store)
            return expected, await asyncio.gather(*(rest(events) for events in watches))

    expected, seen = asyncio.run(follow())
    assert [statuses(events) for events in seen] == [expected] * 3


def test_a_stream_that_is_trimmed_while_the_connection_is_away_does_not_hide_the_end(
    store: RedisJobStore, redis_server: EmbeddedRedis
) -> None:
    add(store)

    async def follow() -> list[JobEvent]:
        async with watching(redis_server) as watcher:
            events = watcher.watch("a")
            await anext(events)
            raw(store).client_kill_filter(_type="normal")
            live(store)
            raw(store).xtrim(store.keys("events"), maxlen=0, approximate=False)
            return await rest(events)

    assert statuses(asyncio.run(follow())) == ["error"]


class Gate(logging.Handler):
    """Opens at a log record that says ``words``, also from another thread."""

    def __init__(self, words: str, do: Callable[[], object]) -> None:
        super().__init__()
        self._words = words
        self._do = do

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self._do()


def test_a_server_that_restarts_makes_no_watch_miss_a_change_of_status(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    server.start()
    logger = logging.getLogger("cl_ml_tools.stores.redis_watcher")

    async def follow() -> tuple[list[str], list[str]]:
        seen: list[JobEvent] = []
        cut_off = asyncio.Event()
        gate = Gate("trying again", cut_off.set)
        logger.addHandler(gate)
        try:
            async with watching(server) as watcher:
                with RedisJobStore(server.redis_url) as store:
                    add(store)
                    begun = asyncio.Event()
                    following = asyncio.create_task(keep_following(watcher, seen, begun))
                    await begun.wait()
                    server.stop()
                    await cut_off.wait()
                    server.start()
                    expected = live(store)
                    await following
                    return ["queued", *expected], statuses(seen)
        finally:
            logger.removeHandler(gate)

    try:
        expected, seen = asyncio.run(follow())
    finally:
        server.stop()
    assert seen == expected


async def keep_following(watcher: RedisJobWatcher, seen: list[JobEvent], begun: asyncio.Event) -> None:
    """What a client does: come back with the last event that it has, for as long as the server is away."""
    while not (seen and seen[-1].is_last):
        try:
            async for event in watcher.watch("a", after=seen[-1].event_id if seen else None):
                seen.append(event)
                begun.set()
        except StoreUnavailableError:
            await asyncio.sleep(0.05)


def test_a_server_that_is_away_ends_a_new_watch_with_unavailable(
    store: RedisJobStore,
) -> None:
    server = EmbeddedRedis()
    server.start()
    watcher = RedisJobWatcher(server.redis_url, timeout_seconds=0.2)
    server.stop()

    async def follow() -> None:
        try:
            async with asyncio.timeout(SECONDS):
                await anext(watcher.watch("a"))
        finally:
            await watcher.close()

    with pytest.raises(StoreUnavailableError):
        asyncio.run(follow())


def test_watches_do_not_queue_up_behind_a_stopped_server(store: RedisJobStore) -> None:
    """Each of them waits for its own bound, not for that of those before it."""
    timeout_seconds = 0.2

    async def follow(server: EmbeddedRedis) -> tuple[list[Any], float]:
        watcher = RedisJobWatcher(server.redis_url, timeout_seconds=timeout_seconds)
        try:
            with RedisJobStore(server.redis_url) as own:
                add(own)
            await anext(watcher.watch("a"))
            os.kill(server.pid, signal.SIGSTOP)
            begin = time.monotonic()
            watches: list[Coroutine[Any, Any, list[JobEvent]]] = [rest(watcher.watch("a")) for _ in range(60)]
            async with asyncio.timeout(SECONDS):
                answers = await asyncio.gather(*watches, return_exceptions=True)
            return answers, time.monotonic() - begin
        finally:
            os.kill(server.pid, signal.SIGCONT)
            await watcher.close()

    with EmbeddedRedis() as server:
        answers, seconds = asyncio.run(follow(server))
    assert all(isinstance(answer, StoreUnavailableError) for answer in answers)
    assert seconds < 2 * timeout_seconds + 1.0
