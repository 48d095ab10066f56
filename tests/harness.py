"""Real processes for tests, and waiting for what they do."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil
from celery import Celery

from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.common.job_control import JobQuery
from cl_ml_tools.common.schemas import JobRecord
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.stores.redis_search import find_jobs

T = TypeVar("T")

PROBE_PLUGINS = Path(__file__).parent / "probe_plugins"
ROOT = Path(__file__).parent.parent


def wait_until(what: Callable[[], T], *, seconds: float = 20.0, why: str = "") -> T:
    """What ``what`` returns as soon as it is true; a failure when it is not in time."""
    end = time.monotonic() + seconds
    while True:
        if value := what():
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {why or what}; last: {value!r}")
        time.sleep(0.01)


def all_jobs(store: RedisJobStore) -> Sequence[JobRecord]:
    """Up to a hundred of all jobs, newest first."""
    return find_jobs(store.scripts, JobQuery(of_anybody=True, limit=100)).jobs


def ended(repository: CeleryJobRepository, job_id: str, *, seconds: float = 60.0) -> JobRecord:
    """The job, as soon as it has reached a terminal status."""

    def terminal() -> JobRecord | None:
        job = repository.get_job(job_id)
        assert job is not None
        return job if job.status in ("completed", "error", "cancelled") else None

    job = wait_until(terminal, seconds=seconds, why=f"job {job_id} ends")
    assert job is not None
    return job


class Flower(Celery):  # type: ignore[misc]  # Celery has no types
    """An app that knows the broker only, as Flower's does.

    Each command has a connection of its own: kombu's pool is shared by the whole process, and may hold one that
    another test has cut.
    """

    def __init__(self, broker_url: str) -> None:
        super().__init__("flower", broker=broker_url)

    def connection_or_acquire(self, connection: Any = None, pool: bool = True) -> Any:
        return super().connection_or_acquire(connection, pool=False)


class Process:
    """A child process in a session of its own, with its output in a file."""

    def __init__(self, command: list[str], variables: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                command,
                env={**os.environ, **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=ROOT,
            )
        self.url = ""

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        return self.popen.pid

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    def wait_for(self, words: str, *, seconds: float = 30.0) -> Self:
        def said() -> bool:
            if self.popen.poll() is not None:
                raise AssertionError(f"ended with {self.popen.returncode}:\n{self.output}")
            return words in self.output

        wait_until(said, seconds=seconds, why=f"{words!r} in {self.log}")
        return self

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def send_group(self, number: signal.Signals) -> None:
        os.killpg(self.pid, number)

    def kill_group(self) -> None:
        """Kill it and its children, and reap it."""
        with contextlib.suppress(ProcessLookupError):
            self.send_group(signal.SIGKILL)
        self.popen.wait()


class Environment:
    """Starts masters and workers that share a server and a storage."""

    def __init__(self, variables: dict[str, str], folder: Path) -> None:
        self.variables = variables
        self._folder = folder
        self._count = 0

    def process(self, command: list[str], variables: dict[str, str]) -> Process:
        self._count += 1
        environment = {"PYTHONPATH": str(PROBE_PLUGINS), "C_FORCE_ROOT": "1", **self.variables, **variables}
        return Process(command, environment, self._folder / f"process-{self._count}.log")

    def worker(self, *options: str, app: str = "cl_ml_tools", **variables: str) -> Process:
        name = f"w{self._count}@test"
        quiet = ["--without-mingle", "--without-gossip", "-l", "INFO", "-n", name]
        return self.process(
            [sys.executable, "-m", "celery", "-A", app, "worker", *quiet, *options], variables
        )

    def master(self, **variables: str) -> Process:
        port = free_port()
        app = [
            "cl_ml_tools.app:create_app",
            "--factory",
            "--http",
            "cl_ml_tools.web.slow_headers:HeaderTimeout",
            "--port",
            str(port),
        ]
        process = self.process([sys.executable, "-m", "uvicorn", *app], variables)
        process.url = f"http://127.0.0.1:{port}"
        return process


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
