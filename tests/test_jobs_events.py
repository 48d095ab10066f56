"""Following all jobs, and many clients at once."""

import asyncio
import json
import socket
import statistics
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from fastapi.sse import EventSourceResponse, ServerSentEvent
from harness import Process, wait_until
from job_http import ADMIN, HERE, add, claim, end, job_app

from cl_ml_tools.common.job_leases import Outcome, RequeueCause
from cl_ml_tools.common.job_watcher import JobEvent, JobsWatcher
from cl_ml_tools.common.schemas import JobStatus
from cl_ml_tools.job_routes.events import EventsRoute
from cl_ml_tools.stores import _event_history, _job_events
from cl_ml_tools.stores._event_history import READERS
from cl_ml_tools.stores._job_events import Mailbox
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.stores.redis_watcher import RedisJobWatcher
from cl_ml_tools.submission.asking import MAX_ASKING

Told = tuple[str, str, str]


class Client:
    """A client of server-sent events that keeps all it is told, and can be cut and come back."""

    def __init__(self, url: str, path: str, **headers: str) -> None:
        self._address, self._path, self._headers = urlsplit(url), path, headers
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.last_id: str | None = None
        self.status = 0

    async def read(self, until: Callable[[str, dict[str, Any]], bool]) -> None:
        """Read until the event, or until the stream ends."""
        reader, writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        headers = dict(self._headers)
        if self.last_id is not None:
            headers["Last-Event-ID"] = self.last_id
        lines = [f"GET {self._path} HTTP/1.0", "Host: x", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode())
        try:
            self.status = int((await reader.readline()).split()[1])
            while (await reader.readline()).strip():
                pass
            fields: dict[str, str] = {}
            async for raw in reader:
                line = raw.decode().rstrip("\r\n")
                name, _, value = line.partition(": ")
                if name:
                    fields[name] = value
                elif "data" in fields:
                    data = json.loads(fields["data"])
                    self.last_id = fields["id"]
                    self.told.append((fields["event"], data))
                    if until(fields["event"], data):
                        return
                    fields = {}
        finally:
            writer.close()

    def statuses(self, job_id: str) -> list[str]:
        told = [d["status"] for e, d in self.told if e == "status" and d["job_id"] == job_id]
        # A client that comes back may be told again how the job stands.
        return [status for n, status in enumerate(told) if n == 0 or told[n - 1] != status]


@contextmanager
def served(store: RedisJobStore) -> Iterator[str]:
    """The job routes behind a real server in a thread."""
    with job_app(store) as app, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def report(store: RedisJobStore, job_id: str, progress: int) -> None:
    store.report(job_id, token="t", progress=progress)


def crash(store: RedisJobStore, job_id: str) -> None:
    store.requeue(job_id, owner=HERE, cause=RequeueCause.CRASHED, detail="signal 9")


def finish(store: RedisJobStore, job_id: str) -> None:
    store.finish(job_id, token="t", outcome=Outcome(JobStatus.COMPLETED, task_output={"of": job_id}))


LIFE = ["queued", "processing", "queued", "processing", "completed"]


def live(store: RedisJobStore, job_id: str) -> Iterator[None]:
    """All that happens to a job, step by step; its statuses are `LIFE`."""
    for last in (False, True):
        claim(store, job_id)
        for progress in range(5, 100, 5):
            report(store, job_id, progress)
            yield
        (finish if last else crash)(store, job_id)
        yield


def never(*_: Any) -> bool:
    return False


# --- all of mine


def test_all_jobs_of_a_creator_are_followed_through_any_master(
    start_master: Callable[..., Process], store: RedisJobStore
) -> None:
    masters = [start_master(), start_master()]

    async def follow() -> list[Client]:
        clients = [Client(master.url, "/api/jobs/events") for master in masters]
        opened = [asyncio.create_task(client.read(lambda event, _: event == "open")) for client in clients]
        await asyncio.gather(*opened)
        add(store, "a")
        add(store, "b")
        add(store, "of-ann", created_by="ann")
        claim(store, "b")
        report(store, "b", 50)
        end(store, "a")
        # The rest is told to a client that comes back, to the other master.
        clients.reverse()
        for client, master in zip(clients, masters, strict=True):
            client._address = urlsplit(master.url)
        reading = [
            asyncio.create_task(client.read(lambda e, d: e == "deleted" and d["job_id"] == "b"))
            for client in clients
        ]
        await asyncio.sleep(0.2)
        store.delete("b")
        await asyncio.wait_for(asyncio.gather(*reading), 20)
        return clients

    for client in asyncio.run(follow()):
        assert [
            (event, data.get("job_id"), data.get("status"))
            for event, data in client.told[1:]
            if event != "open"
        ] == [
            ("status", "a", "queued"),
            ("status", "b", "queued"),
            ("status", "b", "processing"),
            ("progress", "b", "processing"),
            ("status", "a", "processing"),
            ("status", "a", "completed"),
            ("deleted", "b", "processing"),
        ]
        (ended,) = [data for _, data in client.told if data.get("status") == "completed"]
        assert ended["task_output"] == {"done": True}


async def taken(watcher: RedisJobWatcher, count: int, **what: Any) -> list[tuple[str, str]]:
    events: list[JobEvent] = []
    async with asyncio.timeout(10):
        async for event in watcher.watch_jobs(**what):
            events.append(event)
            if len(events) == count:
                break
    return [(event.job_id, str(event.status)) for event in events]


@pytest.fixture
def watch(store: RedisJobStore) -> Callable[..., list[tuple[str, str]]]:
    """What a new watcher tells first, when ``act`` is done meanwhile."""

    def run(count: int, **what: Any) -> list[tuple[str, str]]:
        async def follow() -> list[tuple[str, str]]:
            watcher = RedisJobWatcher(store.url)
            assert isinstance(watcher, JobsWatcher)
            try:
                return await taken(watcher, count, **what)
            finally:
                await watcher.close()

        return asyncio.run(follow())

    return run


def test_everybody_is_told_of_their_own_jobs_and_an_admin_of_all(
    store: RedisJobStore, watch: Callable[..., list[tuple[str, str]]]
) -> None:
    add(store, "nobodys")
    add(store, "anns", created_by="ann")
    add(store, "bobs", created_by="bob")
    end(store, "anns")
    assert watch(3, after="0-0", created_by="ann") == [
        ("anns", "queued"),
        ("anns", "processing"),
        ("anns", "completed"),
    ]
    assert watch(1, after="0-0", created_by="bob") == [("bobs", "queued")]
    assert watch(1, after="0-0", created_by=None) == [("nobodys", "queued")]
    assert len(watch(5, after="0-0", created_by="root", of_anybody=True)) == 5


def test_where_the_stream_does_not_reach_back_each_changed_job_is_told_as_it_stands(
    store: RedisJobStore, watch: Callable[..., list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, "unchanged", created_by="ann")
    entries: Any = store.client.xrevrange(store.keys("events"), count=1)
    add(store, "first", created_by="ann")
    add(store, "second", created_by="ann")
    add(store, "bobs", created_by="bob")
    end(store, "first")
    store.client.xtrim(store.keys("events"), maxlen=1, approximate=False)
    monkeypatch.setattr(_event_history, "MAX_EVENTS", 1)
    seen = watch(2, after=entries[0][0], created_by="ann")
    assert seen == [("second", "queued"), ("first", "completed")]


def test_a_position_that_never_was_begins_now(store: RedisJobStore, redis_server: EmbeddedRedis) -> None:
    add(store, "a")

    async def follow() -> list[tuple[str, str]]:
        watcher = RedisJobWatcher(redis_server.redis_url)
        try:
            task = asyncio.create_task(taken(watcher, 1, after="9" * 19, created_by=None))
            await asyncio.sleep(0.5)
            claim(store, "a")
            return await task
        finally:
            await watcher.close()

    assert asyncio.run(follow()) == [("a", "processing")]


@pytest.mark.parametrize(
    ("user", "seen"),
    [("ann", ["anns"]), ("bob", ["bobs"]), (None, ["nobodys"]), (ADMIN, ["anns", "bobs", "nobodys"])],
)
def test_the_stream_of_all_jobs_is_that_of_who_asks(
    user: str | None, seen: list[str], store: RedisJobStore
) -> None:
    for job_id, creator in (("anns", "ann"), ("bobs", "bob"), ("nobodys", None)):
        add(store, job_id, created_by=creator)
    headers = {"Last-Event-ID": "0-0"} | ({} if user is None else {"X-User": user})

    with served(store) as url:
        client = Client(url, "/jobs/events", **headers)

        def is_last(*_: Any) -> bool:
            return len(client.told) == 1 + len(seen)

        asyncio.run(asyncio.wait_for(client.read(is_last), 10))
    told = [data["job_id"] for event, data in client.told if event == "status"]
    assert told == seen


def event(number: int, job_id: str, status: JobStatus, progress: int = 0) -> JobEvent:
    return JobEvent(f"{number}-0", job_id, status, progress)


def test_progress_of_jobs_that_alternate_takes_one_place_each_and_keeps_the_order() -> None:
    async def collect() -> list[str]:
        mailbox = Mailbox()
        for number in range(1, 1000):
            mailbox.put(event(number, f"job-{number % 2}", JobStatus.PROCESSING, number % 100))
        mailbox.put(event(1000, "job-0", JobStatus.COMPLETED))
        mailbox.interrupt()
        return [event.event_id async for event in mailbox.events()]

    assert asyncio.run(collect()) == ["998-0", "999-0", "1000-0"]


def test_a_watch_that_takes_nothing_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_job_events, "MAX_WAITING", 10)

    async def collect() -> int:
        mailbox = Mailbox()
        for number in range(1, 100):
            mailbox.put(event(number, f"job-{number}", JobStatus.QUEUED))
        return len([event async for event in mailbox.events()])

    assert asyncio.run(collect()) <= 10


# --- many at once


def test_a_client_that_goes_while_it_is_told_is_no_error() -> None:
    async def go(route_class: type[APIRoute]) -> None:
        async def events() -> AsyncIterator[ServerSentEvent]:
            for number in range(100):
                yield ServerSentEvent(data=number)

        router = APIRouter(route_class=route_class)
        router.add_api_route("/events", events, response_class=EventSourceResponse)
        app = FastAPI()
        app.include_router(router)
        requests = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> dict[str, Any]:
            for request in requests:
                return request
            # All that lies between the events and the client is full: then it goes.
            await asyncio.sleep(0.1)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

        scope = {"type": "http", "method": "GET", "path": "/events", "headers": [], "query_string": b""}
        await app({**scope, "asgi": {"version": "3.0", "spec_version": "2.3"}}, receive, send)

    asyncio.run(go(EventsRoute))
    with pytest.raises(ExceptionGroup):  # else FastAPI has no need of it any more
        asyncio.run(go(APIRoute))


MOST_CONNECTIONS = MAX_ASKING + READERS + 2
"""Of one master: those that ask, those that read, the one that follows the events; and the test's own."""


@pytest.mark.long  # 500 clients take more than this machine's share
def test_500_clients_of_one_master_are_told_every_change_over_a_handful_of_connections(
    start_master: Callable[..., Process], store: RedisJobStore, tmp_path: Path
) -> None:
    master = start_master()
    jobs = [f"job-{number}" for number in range(10)]
    for job_id in jobs:
        add(store, job_id)

    async def follow() -> tuple[list[Client], list[int]]:
        clients = [Client(master.url, f"/api/jobs/{jobs[number % 10]}/events") for number in range(400)]
        clients += [Client(master.url, "/api/jobs/events") for _ in range(100)]
        cut = clients[::10]  # 50 of them, of both kinds
        ended: dict[int, set[str]] = {}

        def at_end(client: Client) -> Callable[[str, dict[str, Any]], bool]:
            def is_end(_: str, data: dict[str, Any]) -> bool:
                if data.get("status") == "completed":
                    ended.setdefault(id(client), set()).add(data["job_id"])
                return len(ended.get(id(client), ())) == (10 if client in clients[400:] else 1)

            return is_end

        tasks = {client: asyncio.create_task(client.read(at_end(client))) for client in clients}
        async with asyncio.timeout(60):
            while not all(client.told for client in clients):
                await asyncio.sleep(0.05)
        connections: list[int] = []
        lives = [live(store, job_id) for job_id in jobs]
        for step in range(1000):
            going = [next(one, "over") for one in lives]
            if step == 8:
                for client in cut:
                    tasks[client].cancel()
                await asyncio.gather(*(tasks[client] for client in cut), return_exceptions=True)
                told = [len(client.told) for client in cut]
            if step == 30:
                # A crash and the second attempt have begun meanwhile; nobody was told.
                assert told == [len(client.told) for client in cut]
                assert not any("completed" in client.statuses(job_id) for client in cut for job_id in jobs)
                for client in cut:
                    tasks[client] = asyncio.create_task(client.read(at_end(client)))
            connections.append(len(store.client.client_list()))
            await asyncio.sleep(0.02)
            if all(one == "over" for one in going):
                break
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks.values())
        return clients, connections

    clients, connections = asyncio.run(follow())
    for number, client in enumerate(clients[:400]):
        assert client.statuses(jobs[number % 10]) == LIFE, client.told
    for client in clients[400:]:
        for job_id in jobs:
            assert client.statuses(job_id) == LIFE[1:], client.told
    for client in clients:
        for job_id in jobs:
            attempt: list[int] = []
            for _, data in client.told:
                if data.get("job_id") == job_id:
                    attempt = [*attempt, data["progress"]] if data["status"] == "processing" else []
                    assert attempt == sorted(attempt)
    # One that is cut in the midst of a question costs another connection for a moment, so not the largest number.
    assert statistics.median(connections) <= MOST_CONNECTIONS, connections
    assert max(connections) < 50, connections
    print(f"{statistics.median(connections):.0f} connections, at most {max(connections)}")
    assert "Traceback" not in master.output
