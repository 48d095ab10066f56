"""The systems that are measured side by side, each with real worker processes on one private Redis."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import psutil
from redis import Redis

from cl_ml_tools import Job
from cl_ml_tools.app import create_repository
from cl_ml_tools.broker_urls import broker_url_for
from cl_ml_tools.settings import Settings

ROOT = Path(__file__).parent.parent
PLUGINS = Path(__file__).parent / "noop_plugin"


class System(Protocol):
    """One way to have jobs done by Celery workers."""

    name: str
    queue: str

    def enqueue(self, count: int) -> None:
        """Submit so many jobs, one after the other."""
        ...

    def worker_command(self) -> list[str]:
        """What starts its worker, without its concurrency."""
        ...

    def worker_environment(self) -> dict[str, str]:
        """Variables of its worker."""
        ...


class PlainCelery:
    """Celery alone: nothing is stored, or (``stores``) a result, a started state and one progress."""

    queue = "celery"

    def __init__(self, redis_url: str, *, stores: bool) -> None:
        self.name = "Celery, result and progress" if stores else "plain Celery"
        self._environment = {
            "BENCHMARK_BROKER_URL": broker_url_for(redis_url),
            "BENCHMARK_RESULT_URL": redis_url.replace("unix://", "redis+socket://").split("?")[0],
            "BENCHMARK_STORES": str(int(stores)),
        }
        saved = dict(os.environ)
        os.environ.update(self._environment)
        try:
            sys.modules.pop("benchmarks.plain_celery_app", None)
            from benchmarks import plain_celery_app

            self._task: Any = plain_celery_app.noop
        finally:
            os.environ.clear()
            os.environ.update(saved)

    def enqueue(self, count: int) -> None:
        """See `System`."""
        for _ in range(count):
            job_id = str(uuid.uuid4())
            self._task.apply_async((job_id,), task_id=job_id, priority=4)

    def worker_command(self) -> list[str]:
        """See `System`."""
        return ["-A", "benchmarks.plain_celery_app", "worker"]

    def worker_environment(self) -> dict[str, str]:
        """See `System`."""
        return self._environment


class Ours:
    """This package: record, lease, one progress, outcome."""

    name = "cl_ml_tools"
    queue = "cl_ml_tools.noop"

    def __init__(self, redis_url: str) -> None:
        self._environment = {"CL_ML_TOOLS_REDIS_URL": redis_url, "PYTHONPATH": str(PLUGINS)}
        self.repository = create_repository(Settings(redis_url=redis_url))

    def enqueue(self, count: int) -> None:
        """See `System`."""
        for _ in range(count):
            self.repository.add_job(Job(job_id=str(uuid.uuid4()), task_type="noop", params={}))

    def worker_command(self) -> list[str]:
        """See `System`."""
        return ["-A", "cl_ml_tools", "worker"]

    def worker_environment(self) -> dict[str, str]:
        """See `System`."""
        return self._environment


@contextmanager
def running_worker(system: System, concurrency: int, *options: str) -> Iterator[psutil.Process]:
    """A worker of the system, stopped at the end."""
    command = [sys.executable, "-m", "celery", *system.worker_command(), "-c", str(concurrency)]
    quiet = ["--without-mingle", "--without-gossip", "-l", "ERROR", *options]
    process = subprocess.Popen(
        [*command, *quiet],
        env={**os.environ, "C_FORCE_ROOT": "1", **system.worker_environment()},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            child.kill()
        process.wait()


def left(client: "Redis", queue: str) -> int:
    """How many messages wait or are not acknowledged."""
    pipeline = client.pipeline(transaction=False)
    for step in range(10):
        pipeline.llen(queue if step == 0 else f"{queue}\x06\x16{step}")
    pipeline.hlen("unacked")
    return sum(pipeline.execute())


def cpu_seconds(process: psutil.Process) -> float:
    """Processor time of a process and its children so far."""
    total = 0.0
    for member in [process, *process.children(recursive=True)]:
        times = member.cpu_times()
        total += times.user + times.system
    return total


def wait_left(client: "Redis", queue: str, at_most: int, *, seconds: float = 300) -> float:
    """When (``time.monotonic``) at most so many messages are left."""
    end = time.monotonic() + seconds
    while left(client, queue) > at_most:
        if time.monotonic() > end:
            raise TimeoutError(f"{queue}: more than {at_most} messages left after {seconds} s")
        time.sleep(0.01)
    return time.monotonic()
