"""What the tests of failures share: short settings, and words for what is staged and seen."""

import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
import pytest
from harness import Process, wait_until
from link import Link
from PIL import Image

from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.common.schemas import JobRecord
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis

Submit = Callable[..., str]
StartWorker = Callable[..., Process]
ProbeLog = Callable[[], list[str]]

PATIENCE = 60.0
"""Seconds that anything may take on a machine with two busy cores."""

QUICK = {
    "CL_ML_TOOLS_LEASE_SECONDS": "2",
    "CL_ML_TOOLS_RECOVERY_INTERVAL_SECONDS": "0.5",
    "CL_ML_TOOLS_LOST_MESSAGE_SECONDS": "1",
    "CL_ML_TOOLS_CANCEL_GRACE_SECONDS": "1",
}
"""Settings under which recovery takes seconds."""


def record(repository: CeleryJobRepository, job_id: str) -> JobRecord:
    """A job that is there."""
    job = repository.get_job(job_id)
    assert job is not None
    return job


def wait_for_status(repository: CeleryJobRepository, job_id: str, *statuses: str) -> JobRecord:
    """The job, as soon as it is in one of these."""

    def reached() -> JobRecord | None:
        job = record(repository, job_id)
        return job if job.status in statuses else None

    job = wait_until(reached, seconds=PATIENCE, why=f"job {job_id} is {' or '.join(statuses)}")
    assert job is not None
    return job


def wait_for_word(
    probe_log: ProbeLog, job_id: str, word: str, *, times: int = 1, seconds: float = PATIENCE
) -> None:
    """Wait until the job has said so."""
    wait_until(
        lambda: probe_log().count(f"{job_id} {word}") >= times, seconds=seconds, why=f"{word} x {times}"
    )


def starts(probe_log: ProbeLog, job_id: str) -> int:
    """How often the plugin has been started for the job."""
    return probe_log().count(f"{job_id} start")


def history(job: JobRecord) -> list[tuple[int, str]]:
    """Which attempts did not finish the job, and why."""
    return [(end.attempt, end.cause) for end in job.history]


def process_of(folder: Path, job_id: str) -> int:
    """The process that has written the job's latest word."""
    lines = (folder / "probe.log").read_text().splitlines()
    return int([line for line in lines if line.startswith(job_id)][-1].rsplit(" ", 1)[1])


def is_alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop(pid: int) -> None:
    """Stop a process (SIGSTOP), and return when it stands."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process (SIGSTOP), and let it go on at the end."""
    stop(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def own_server() -> Iterator[EmbeddedRedis]:
    """A server that the test may stop. ``redis_server = staging.own_server`` gives all of a module's tests one."""
    with EmbeddedRedis() as server:
        pid = server.pid
        yield server
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
def link_to_server(redis_server: EmbeddedRedis) -> Iterator[Link]:
    """A connection to the server for some of the processes. ``link = staging.link_to_server``."""
    with Link(redis_server.redis_url) as link:
        yield link


def upload(url: str, *, seconds: float = PATIENCE) -> httpx2.Response:
    """Upload a picture to a master, to be resized."""
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "png")
    return httpx2.post(
        f"{url}/api/jobs/image_resize",
        files={"file": ("a.png", picture.getvalue(), "image/png")},
        data={"width": "4", "height": "4"},
        timeout=seconds,
    )


def waiting_messages(repository: CeleryJobRepository, task_type: str = "probe") -> int:
    """How many messages of the task type are in its queue, at whatever priority."""
    client = repository.store.client
    return sum(client.llen(key) for key in client.keys(f"cl_ml_tools.{task_type}*"))


def unacknowledged_messages(repository: CeleryJobRepository) -> int:
    """How many messages the broker has handed out and keeps until they are acknowledged."""
    return int(repository.store.client.hlen("unacked"))


def record_through(link: Link, server: EmbeddedRedis) -> dict[str, str]:
    """The variables of a node that reaches its record through the link, and its broker without it."""
    return {"CL_ML_TOOLS_REDIS_URL": link.redis_url, "CL_ML_TOOLS_BROKER_URL": server.broker_url}
