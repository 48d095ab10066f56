"""A master's job routes over a real store, without a broker, for tests of HTTP."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Header
from fastapi.testclient import TestClient

from cl_ml_tools.common.job_control import JobPage, JobQuery
from cl_ml_tools.common.job_leases import Dispatch, Outcome, Owner
from cl_ml_tools.common.schemas import Job, JobStatus
from cl_ml_tools.job_routes import create_job_router
from cl_ml_tools.stores.local_files import LocalFileStorage
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.stores.redis_search import find_jobs
from cl_ml_tools.stores.redis_watcher import RedisJobWatcher

HERE = Owner("here", 7)
ADMIN = "root"


class StoreRepository:
    """A store as a repository that sends no messages."""

    def __init__(self, store: RedisJobStore) -> None:
        self.store = store
        self.leases = store
        self.get_job, self.delete_job, self.remove_job = store.get, store.delete, store.remove
        self.cancel_job = store.cancel

    def claim_next_job(self, *_: Any, **__: Any) -> None:
        return None

    def send(self, dispatch: Dispatch) -> bool:
        return False

    def retry_job(self, job_id: str) -> None:
        self.store.retry(job_id)

    def find_jobs(self, query: JobQuery) -> JobPage:
        return find_jobs(self.store.scripts, query)

    def add_job(self, job: Job, created_by: str | None = None, priority: int | None = None) -> str:
        self.store.add(job, created_by=created_by, priority=priority)
        return job.job_id


def user_of_header(x_user: str | None = Header(None)) -> dict[str, str] | None:
    return None if x_user is None else {"id": x_user}


@contextmanager
def job_client(store: RedisJobStore, storage: LocalFileStorage | None = None) -> Iterator[TestClient]:
    """A client of the job routes; who asks is in the header ``X-User``, `ADMIN` is an admin."""
    with job_app(store, storage) as app, TestClient(app, raise_server_exceptions=False) as client:
        yield client


@contextmanager
def job_app(store: RedisJobStore, storage: LocalFileStorage | None = None) -> Iterator[FastAPI]:
    """The job routes as an application."""
    watcher = RedisJobWatcher(store.url)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await watcher.close()

    app = FastAPI(lifespan=lifespan)
    repository: Any = StoreRepository(store)
    router = create_job_router(
        repository,
        user_of_header,
        watcher=watcher,
        file_storage=storage,
        is_admin=lambda user: user["id"] == ADMIN,
    )
    app.include_router(router)
    yield app


def add(store: RedisJobStore, job_id: str, created_by: str | None = None, task_type: str = "probe") -> None:
    store.add(Job(job_id=job_id, task_type=task_type, params={}), created_by=created_by)


def claim(store: RedisJobStore, job_id: str) -> None:
    store.claim(job_id, token="t", owner=HERE, sequence=0, lease_seconds=30)


def end(store: RedisJobStore, job_id: str, status: JobStatus = JobStatus.COMPLETED) -> None:
    """Claim a job and finish it."""
    claim(store, job_id)
    store.finish(job_id, token="t", outcome=Outcome(status, task_output={"done": True}))


def complete(store: RedisJobStore, storage: LocalFileStorage, job_id: str, **outputs: bytes) -> Path:
    """Finish a job with these outputs; ``_`` before the extension stands for the dot."""
    storage.create_job_directory(job_id)
    folder = storage.get_output_path(job_id)
    for name, content in outputs.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    end(store, job_id)
    return folder
