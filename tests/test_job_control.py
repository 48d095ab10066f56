"""Acting on jobs over HTTP, and whose jobs are whose."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from job_http import ADMIN, add, claim, complete, end, job_client
from plain_implementations import MemoryRepository

from cl_ml_tools.common.job_control import CancelsJobs, FindsJobs, RemovesJobs, RetriesJobs
from cl_ml_tools.common.schemas import Job, JobStatus
from cl_ml_tools.job_routes import create_job_router
from cl_ml_tools.stores.local_files import LocalFileStorage
from cl_ml_tools.stores.redis_jobs import RedisJobStore


@pytest.fixture
def storage(tmp_path: Path) -> LocalFileStorage:
    return LocalFileStorage(tmp_path / "media")


@pytest.fixture
def client(store: RedisJobStore, storage: LocalFileStorage) -> Iterator[TestClient]:
    with job_client(store, storage) as client:
        yield client


def status_of(store: RedisJobStore, job_id: str = "a") -> str | None:
    job = store.get(job_id)
    return None if job is None else job.status


# --- cancel, retry, remove


def test_a_queued_job_is_cancelled_at_once_and_a_cancel_may_be_repeated(
    client: TestClient, store: RedisJobStore
) -> None:
    add(store, "a")
    for _ in range(2):
        answer = client.post("/jobs/a/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


def test_a_running_job_is_asked_to_stop(client: TestClient, store: RedisJobStore) -> None:
    add(store, "a")
    claim(store, "a")
    answer = client.post("/jobs/a/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "processing")
    assert store.report("a", token="t", progress=5) == "stopping"


def test_a_job_at_its_end_is_not_cancelled(client: TestClient, store: RedisJobStore) -> None:
    add(store, "a")
    end(store, "a")
    answer = client.post("/jobs/a/cancel")
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "Job 'a' is at its end (completed): it cannot be cancelled.",
    }


@pytest.mark.parametrize("status", [JobStatus.ERROR, JobStatus.CANCELLED])
def test_a_job_that_failed_is_tried_again(
    status: JobStatus, client: TestClient, store: RedisJobStore
) -> None:
    add(store, "a")
    end(store, "a", status)
    answer = client.post("/jobs/a/retry")
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")


@pytest.mark.parametrize("act", [lambda store: None, claim, end])
def test_a_job_that_has_not_failed_is_not_tried_again(
    act: Callable[..., None], client: TestClient, store: RedisJobStore
) -> None:
    add(store, "a")
    if act in (claim, end):
        act(store, "a")
    answer = client.post("/jobs/a/retry")
    assert answer.status_code == 409
    assert "cannot be retried" in answer.json()["detail"]


def test_a_removed_job_is_gone_with_its_files(
    client: TestClient, store: RedisJobStore, storage: LocalFileStorage
) -> None:
    add(store, "a")
    complete(store, storage, "a", cat_png=b"x")
    assert client.delete("/jobs/a").status_code == 204
    assert not list((storage.base_dir / "jobs").iterdir())
    assert client.delete("/jobs/a").status_code == 404


def test_the_files_of_a_job_that_runs_are_left_to_its_worker(
    client: TestClient, store: RedisJobStore, storage: LocalFileStorage
) -> None:
    add(store, "a")
    storage.create_job_directory("a")
    claim(store, "a")
    assert client.delete("/jobs/a").status_code == 204
    assert client.get("/jobs/a").status_code == 404
    assert storage.get_input_path("a").exists()


# --- waiting


def test_a_request_may_wait_for_the_end(client: TestClient, store: RedisJobStore) -> None:
    add(store, "a")
    begin = time.monotonic()
    timer = threading.Timer(0.5, lambda: end(store, "a"))
    timer.start()
    answer = client.get("/jobs/a?wait=20")
    timer.join()
    assert answer.json()["status"] == "completed"
    assert 0.4 < time.monotonic() - begin < 5


def test_a_wait_ends_in_time(client: TestClient, store: RedisJobStore) -> None:
    add(store, "a")
    begin = time.monotonic()
    assert client.get("/jobs/a?wait=0.3").json()["status"] == "queued"
    assert 0.25 < time.monotonic() - begin < 2


@pytest.mark.parametrize("wait", ["-1", "61", "inf", "nan", "long"])
def test_a_wait_is_bounded(wait: str, client: TestClient, store: RedisJobStore) -> None:
    add(store, "a")
    assert client.get(f"/jobs/a?wait={wait}").status_code == 422


def test_a_job_that_is_removed_meanwhile_is_404(client: TestClient, store: RedisJobStore) -> None:
    add(store, "a")
    timer = threading.Timer(0.3, lambda: store.delete("a"))
    timer.start()
    assert client.get("/jobs/a?wait=20").status_code == 404
    timer.join()


# --- any repository


def test_a_plain_repository_offers_what_it_has(storage: LocalFileStorage) -> None:
    repository = MemoryRepository()
    app = FastAPI()
    app.include_router(create_job_router(repository, lambda: None, file_storage=storage))
    paths = app.openapi()["paths"]
    assert {(method, path) for path, methods in paths.items() for method in methods} == {
        ("get", "/jobs/{job_id}"),
        ("get", "/jobs/{job_id}/outputs"),
        ("get", "/jobs/{job_id}/outputs.zip"),
        ("get", "/jobs/{job_id}/outputs/{name}"),
        ("delete", "/jobs/{job_id}"),
    }
    repository.add_job(Job(job_id="a", task_type="probe", params={}))
    storage.create_job_directory("a")
    with TestClient(app) as client:
        timer = threading.Timer(0.3, lambda: repository.update_job("a", status="completed"))
        timer.start()
        assert client.get("/jobs/a?wait=20").json()["status"] == "completed"
        timer.join()
        assert client.get("/jobs/a/outputs").json() == []
        assert client.delete("/jobs/a").status_code == 204
        assert client.get("/jobs/a").status_code == 404
    assert not storage.get_input_path("a").exists()


def test_ours_offers_all(repository: Any) -> None:
    for protocol in (FindsJobs, CancelsJobs, RetriesJobs, RemovesJobs):
        assert isinstance(repository, protocol)


# --- whose job

ENDPOINTS = [
    ("GET", "/jobs/a", 200),
    ("GET", "/jobs/a?wait=1", 200),
    ("GET", "/jobs/a/events", 200),
    ("GET", "/jobs/a/outputs", 200),
    ("GET", "/jobs/a/outputs/cat.png", 200),
    ("GET", "/jobs/a/outputs.zip", 200),
    ("POST", "/jobs/a/cancel", 409),
    ("POST", "/jobs/a/retry", 409),
    ("DELETE", "/jobs/a", 204),
]


@pytest.mark.parametrize(("method", "path", "status"), ENDPOINTS)
@pytest.mark.parametrize(("user", "may"), [("ann", True), ("bob", False), (ADMIN, True), (None, False)])
def test_a_job_is_its_creators_and_the_admins(
    method: str,
    path: str,
    status: int,
    user: str | None,
    may: bool,
    client: TestClient,
    store: RedisJobStore,
    storage: LocalFileStorage,
) -> None:
    add(store, "a", created_by="ann")
    complete(store, storage, "a", cat_png=b"x")
    headers = {} if user is None else {"X-User": user}
    answer = client.request(method, path, headers=headers)
    assert answer.status_code == (status if may else 404)
    if not may:
        unknown = client.request(method, path.replace("/a", "/b"), headers=headers)
        assert answer.text.replace("'a'", "'b'") == unknown.text, "as if there were none"
        assert status_of(store) == "completed"


def test_the_table_has_every_route_of_one_job(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    routes = {
        (method.upper(), path.replace("{job_id}", "a").replace("{name}", "cat.png"))
        for path, methods in document["paths"].items()
        for method in methods
        if "{job_id}" in path
    }
    assert routes == {(method, path.partition("?")[0]) for method, path, _ in ENDPOINTS}


def test_every_answer_of_a_job_route_is_described(client: TestClient) -> None:
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            assert "503" in operation["responses"], f"{method} {path}"
            for status, described in operation["responses"].items():
                if int(status) >= 400:
                    assert list(described["content"]) == ["application/problem+json"], f"{method} {path}"
