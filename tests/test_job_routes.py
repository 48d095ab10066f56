"""Jobs over HTTP: how they stand, and following them."""

import json
import os
import signal
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any

import pytest
from fastapi import FastAPI, Header
from fastapi.testclient import TestClient
from harness import Process
from plain_implementations import MemoryRepository

from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.common.job_leases import Outcome, Owner, RequeueCause
from cl_ml_tools.common.schemas import Job, JobStatus
from cl_ml_tools.job_routes import create_job_router
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.stores.redis_watcher import RedisJobWatcher

HERE = Owner("here", 7)


@dataclass(frozen=True)
class Sent:
    """A server-sent event as a browser gets it."""

    event: str
    id: str
    data: dict[str, Any]

    @property
    def told(self) -> tuple[str, str, int]:
        return self.event, self.data["status"], self.data["progress"]


def read_events(lines: Iterator[str]) -> Iterator[Sent]:
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.rstrip("\r\n").partition(": ")
        if name:
            fields[name] = value
        elif "data" in fields:
            yield Sent(fields["event"], fields["id"], json.loads(fields["data"]))
            fields = {}


def user_of_header(x_user: str | None = Header(None)) -> dict[str, str] | None:
    return None if x_user is None else {"id": x_user}


class Records:
    """A store as a repository, without a broker."""

    def __init__(self, store: RedisJobStore) -> None:
        self.get_job = store.get


@pytest.fixture
def own_server() -> Iterator[EmbeddedRedis]:
    """A server that the test may stop."""
    with EmbeddedRedis() as server:
        yield server
        os.kill(server.pid, signal.SIGCONT)


@asynccontextmanager
async def closing(watcher: RedisJobWatcher) -> AsyncIterator[None]:
    yield
    await watcher.close()


def client_of(store: RedisJobStore, timeout_seconds: float = 2.0) -> TestClient:
    watcher = RedisJobWatcher(store.url, timeout_seconds=timeout_seconds)
    app = FastAPI(lifespan=lambda _: closing(watcher))
    repository: Any = Records(store)
    app.include_router(create_job_router(repository, user_of_header, watcher=watcher), prefix="/api")
    return TestClient(app)


@pytest.fixture
def client(store: RedisJobStore) -> Iterator[TestClient]:
    with client_of(store) as client:
        yield client


def add(store: RedisJobStore, created_by: str | None = None, **params: Any) -> None:
    store.add(Job(job_id="a", task_type="probe", params=params), created_by=created_by)


def claim(store: RedisJobStore, token: str = "t") -> None:
    store.claim("a", token=token, owner=HERE, sequence=0, lease_seconds=30)


def crash(store: RedisJobStore) -> None:
    store.requeue("a", owner=HERE, cause=RequeueCause.CRASHED, detail="signal 9")


def complete(store: RedisJobStore, token: str = "t", **output: Any) -> None:
    store.finish("a", token=token, outcome=Outcome(JobStatus.COMPLETED, task_output=output))


def followed(client: TestClient, **headers: str) -> list[Sent]:
    """All events of a job that comes to its end."""
    response = client.get("/api/jobs/a/events", headers=headers)
    assert response.status_code == 200, response.text
    return list(read_events(iter(response.text.splitlines())))


# how a job stands


def test_a_job_is_shown_as_it_stands(client: TestClient, store: RedisJobStore) -> None:
    add(store, width=3)
    claim(store)
    crash(store)
    claim(store)
    store.report("a", token="t", progress=40)
    shown = client.get("/api/jobs/a")
    assert shown.status_code == 200
    body = shown.json()
    assert {name: body[name] for name in ("job_id", "task_type", "params", "status", "progress")} == {
        "job_id": "a",
        "task_type": "probe",
        "params": {"width": 3},
        "status": "processing",
        "progress": 40,
    }
    assert (body["priority"], body["attempt"], body["finished_at"]) == (5, 2, None)
    assert body["created_at"] <= body["started_at"]
    assert [(end["attempt"], end["cause"], end["detail"]) for end in body["history"]] == [
        (1, "crashed", "signal 9")
    ]


def test_what_is_nobodys_business_is_not_shown(client: TestClient, store: RedisJobStore) -> None:
    add(store)
    claim(store, token="secret-token")
    body = client.get("/api/jobs/a").text
    for private in ("secret-token", "add_token", "cancel_requested", "created_by"):
        assert private not in body


def test_a_job_at_its_end_shows_its_output(client: TestClient, store: RedisJobStore) -> None:
    add(store)
    claim(store)
    complete(store, width=3)
    body = client.get("/api/jobs/a").json()
    assert (body["status"], body["progress"], body["task_output"]) == ("completed", 100, {"width": 3})


def test_a_job_that_holds_any_text_is_shown(client: TestClient, store: RedisJobStore) -> None:
    """A file name may hold bytes that are no UTF-8, which Python keeps as lone surrogates."""
    add(store, name="caf\udce9.png")
    claim(store)
    complete(store, name="caf\udce9.png")
    assert client.get("/api/jobs/a").status_code == 200
    assert [event.told for event in followed(client)] == [("status", "completed", 100)]


def test_a_job_of_any_repository_is_shown(store: RedisJobStore) -> None:
    repository = MemoryRepository()
    repository.add_job(Job(job_id="a", task_type="probe", params={}))
    app = FastAPI()
    app.include_router(create_job_router(repository, lambda: None))
    client = TestClient(app)
    assert client.get("/jobs/a").json()["created_at"] is None
    assert client.get("/jobs/a/events").status_code == 404, "there is no watcher"


@pytest.mark.parametrize("path", ["/api/jobs/a", "/api/jobs/a/events", "/api/jobs/%2e%2e%2fa"])
def test_an_unknown_job_is_404(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_job_that_is_deleted_while_it_runs_is_404_at_once(client: TestClient, store: RedisJobStore) -> None:
    add(store)
    claim(store)
    store.delete("a")
    assert client.get("/api/jobs/a").status_code == 404
    assert client.get("/api/jobs/a/events").status_code == 404


@pytest.mark.parametrize("path", ["/api/jobs/a", "/api/jobs/a/events"])
def test_only_its_creator_sees_a_job(client: TestClient, store: RedisJobStore, path: str) -> None:
    add(store, created_by="ann")
    claim(store)
    complete(store)
    answers = {user: client.get(path, headers={"X-User": user}) for user in ("ann", "bob", "")}
    answers["nobody"] = client.get(path)
    assert {user: answer.status_code for user, answer in answers.items()} == {
        "ann": 200,
        "bob": 404,
        "": 404,
        "nobody": 404,
    }
    assert answers["bob"].json()["detail"] == "There is no job 'a'.", "as if there were none"


def test_where_nobody_is_known_jobs_are_shared(client: TestClient, store: RedisJobStore) -> None:
    add(store)
    assert client.get("/api/jobs/a").status_code == 200
    assert client.get("/api/jobs/a", headers={"X-User": "bob"}).status_code == 404


def test_the_documentation_says_what_a_client_gets(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths["/api/jobs/{job_id}"]["get"]["responses"]) >= {"200", "404"}
    events = paths["/api/jobs/{job_id}/events"]["get"]
    assert "text/event-stream" in events["responses"]["200"]["content"]
    assert "Last-Event-ID" in events["description"]


# following a job


def test_following_a_job_at_its_end_tells_that_with_its_output(
    client: TestClient, store: RedisJobStore
) -> None:
    add(store)
    claim(store)
    complete(store, width=3)
    response = client.get("/api/jobs/a/events")
    assert response.headers["content-type"].startswith("text/event-stream")
    (event,) = read_events(iter(response.text.splitlines()))
    assert event.told == ("status", "completed", 100)
    assert event.data["task_output"] == {"width": 3}
    assert event.data["job_id"] == "a"


def test_a_client_that_comes_back_misses_no_change_of_status(
    client: TestClient, store: RedisJobStore
) -> None:
    add(store)
    job = store.get("a")
    assert job is not None
    claim(store, "t1")
    store.report("a", token="t1", progress=30)
    crash(store)
    claim(store, "t2")
    complete(store, "t2")
    told = followed(client, **{"Last-Event-ID": job.event_id})
    assert [event.told for event in told] == [
        ("status", "processing", 0),
        ("progress", "processing", 30),
        ("status", "queued", 0),
        ("status", "processing", 0),
        ("status", "completed", 100),
    ]
    assert followed(client, **{"Last-Event-ID": told[2].id}) == told[3:]
    assert followed(client, **{"Last-Event-ID": told[-1].id}) == []


@pytest.mark.parametrize("last", ["newest", "1-2-3", "-1", "$", "1 2"])
def test_an_id_that_is_none_is_refused(client: TestClient, store: RedisJobStore, last: str) -> None:
    add(store)
    answer = client.get("/api/jobs/a/events", headers={"Last-Event-ID": last})
    assert answer.status_code == 422
    assert "last-event-id" in answer.text.lower()


@pytest.mark.parametrize("last", ["0", "0-0", "1-18446744073709551615", "1-99999999999999999999", "9" * 20])
def test_an_id_of_another_time_is_answered_with_how_the_job_stands(
    client: TestClient, store: RedisJobStore, last: str
) -> None:
    add(store)
    claim(store)
    complete(store)
    told = followed(client, **{"Last-Event-ID": last})
    assert told[-1:]
    assert told[-1].told == ("status", "completed", 100)


def open_stream(url: str, last_event_id: str | None = None) -> HTTPResponse:
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20)
    assert isinstance(response, HTTPResponse)
    return response


def events_of(response: HTTPResponse) -> Iterator[Sent]:
    return read_events(line.decode() for line in response)


def test_a_job_is_followed_live_and_again_after_a_break(
    start_master: Callable[..., Process], repository: CeleryJobRepository, store: RedisJobStore
) -> None:
    url = f"{start_master().url}/api/jobs/a/events"
    add(store)
    with open_stream(url) as response:
        events = events_of(response)
        assert next(events).told == ("status", "queued", 0)
        claim(store, "t1")
        assert next(events).told == ("status", "processing", 0)
        store.report("a", token="t1", progress=30)
        last = next(events)
        assert last.told == ("progress", "processing", 30)
    # The client is away.
    crash(store)
    claim(store, "t2")
    with open_stream(url, last.id) as response, open_stream(url) as another:
        events = events_of(response)
        assert [next(events).told for _ in range(2)] == [("status", "queued", 0), ("status", "processing", 0)]
        assert next(events_of(another)).told == ("status", "processing", 0)
        complete(store, "t2", width=3)
        (end,) = events
        assert (end.told, end.data["task_output"]) == (("status", "completed", 100), {"width": 3})
        assert [event.told for event in events_of(another)] == [("status", "completed", 100)]


def test_a_follower_is_told_that_the_job_is_deleted(
    start_master: Callable[..., Process], store: RedisJobStore
) -> None:
    url = f"{start_master().url}/api/jobs/a/events"
    add(store)
    claim(store)
    with open_stream(url) as response:
        events = events_of(response)
        assert next(events).told == ("status", "processing", 0)
        store.delete("a")
        (deletion,) = events
        assert deletion.event == "deleted"


def test_a_master_stops_although_a_job_is_followed(
    start_master: Callable[..., Process], store: RedisJobStore
) -> None:
    master = start_master()
    add(store)
    with open_stream(f"{master.url}/api/jobs/a/events") as response:
        events = events_of(response)
        assert next(events).told == ("status", "queued", 0)
        master.send(signal.SIGTERM)
        master.wait_for("Shutting down")
        # uvicorn waits for open responses: a job that ends ends its stream.
        store.update("a", status=JobStatus.CANCELLED)
        assert next(events).told == ("status", "cancelled", 0)
    assert master.popen.wait(20) in (0, -signal.SIGTERM)
    assert "Traceback" not in master.output


# the store is away


@pytest.mark.parametrize("path", ["/api/jobs/a", "/api/jobs/a/events"])
def test_a_stopped_server_is_503_within_its_bound(own_server: EmbeddedRedis, path: str) -> None:
    with RedisJobStore(own_server.redis_url, timeout_seconds=0.2) as store, client_of(store, 0.2) as client:
        add(store)
        os.kill(own_server.pid, signal.SIGSTOP)
        begin = time.monotonic()
        answer = client.get(path)
        assert time.monotonic() - begin < 2 * 0.2 + 1.0
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert "does not answer" in answer.text


@pytest.mark.parametrize("path", ["/api/jobs/a", "/api/jobs/a/events"])
def test_a_server_that_is_gone_is_503(path: str) -> None:
    with EmbeddedRedis() as server:
        store = RedisJobStore(server.redis_url)
    with store, client_of(store) as client:
        answer = client.get(path)
        assert answer.status_code == 503
        assert "Retry-After" in answer.headers
