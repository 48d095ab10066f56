"""Runs a system's producer and worker, and reads what they cost."""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import psutil
from redis import Redis

from benchmarks.systems import ROOT, System


class Producer:
    """A process that submits when it is told to."""

    def __init__(self, system: System) -> None:
        self._process = subprocess.Popen(
            system.producer_command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=system.variables(),
            cwd=ROOT,
        )
        if self._read() != "ready":
            raise RuntimeError(f"the producer of {system.name} does not start")

    def submit(self, count: int, *, in_bulk: bool = False) -> dict[str, float]:
        """Submit so many jobs; when that began (``time.monotonic``), and what it took."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{'many' if in_bulk else 'one'} {count}\n")
        self._process.stdin.flush()
        return dict(json.loads(self._read()))

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)


@dataclass
class Cost:
    """What processes have used so far: processor seconds, by part."""

    main: float
    children: float
    redis: float


class Worker:
    """The processes of a running worker."""

    def __init__(self, mains: list[psutil.Process], server_pid: int) -> None:
        self._mains = mains
        self._server = psutil.Process(server_pid)

    def cost(self) -> Cost:
        """Processor time so far; that of children that have ended is counted when they are reaped."""
        main = children = 0.0
        for process in self._mains:
            times = process.cpu_times()
            main += times.user + times.system
            children += times.children_user + times.children_system
            for child in process.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    children += sum(child.cpu_times()[:4])
        server = self._server.cpu_times()
        return Cost(main, children, server.user + server.system)

    def memory_mb(self) -> float:
        """What all its processes take together; pages that they share are counted once."""
        total = 0
        for process in self._mains:
            for member in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += member.memory_full_info().pss
        return total / 1e6


@contextmanager
def running_worker(system: System, concurrency: int, server_pid: int, **variables: str) -> Iterator[Worker]:
    """A worker of the system, killed at the end."""
    processes = [
        subprocess.Popen(
            command,
            env={**system.variables(), **variables},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for command in system.worker_commands(concurrency)
    ]
    try:
        yield Worker([psutil.Process(process.pid) for process in processes], server_pid)
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                main = psutil.Process(process.pid)
                for member in [*main.children(recursive=True), main]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        member.kill()
            process.wait()


class StalledError(Exception):
    """A system stopped doing jobs."""


def wait_left(
    system: System, client: "Redis", at_most: int, *, stall_seconds: float = 30
) -> tuple[float, int]:
    """When (``time.monotonic``) at most so many jobs are left, and how many those are.

    Raises:
        StalledError: nothing was done for that long.
    """
    fewest, since = system.left(client), time.monotonic()
    while True:
        count = system.left(client)
        now = time.monotonic()
        if count <= at_most:
            return now, count
        if count < fewest:
            fewest, since = count, now
        elif now - since > stall_seconds:
            raise StalledError(
                f"{system.name}: nothing was done for {stall_seconds} s, {count} jobs are left"
            )
        time.sleep(0.02)
