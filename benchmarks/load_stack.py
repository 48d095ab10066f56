"""The processes of the load run: a master and a worker, and what they take of memory."""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from redis import Redis

from benchmarks.systems import ROOT

START_SECONDS = 60.0


@dataclass
class Stack:
    """What runs.

    Attributes:
        port: the master's.
        master, worker: their main processes.
        client: of Redis.
    """

    port: int
    master: psutil.Process
    worker: psutil.Process
    client: "Redis"

    def memory_mb(self) -> dict[str, float]:
        """What each part takes now; pages that processes share are counted once."""
        info: Any = self.client.info("memory")
        children = self.worker.children(recursive=True)
        return {
            "master": _pss([self.master]),
            "worker_main": _pss([self.worker]),
            "worker_children": _pss(children),
            "redis": info["used_memory"] / 1e6,
        }


def _pss(processes: list[psutil.Process]) -> float:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total / 1e6


@contextmanager
def running_stack(redis_url: str, folder: Path, concurrency: int) -> Iterator[Stack]:
    """A master by uvicorn and a prefork worker, on 127.0.0.1, with their files in ``folder``."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    variables = {
        **os.environ,
        "C_FORCE_ROOT": "1",
        "CL_ML_TOOLS_REDIS_URL": redis_url,
        "CL_ML_TOOLS_STORAGE_DIR": str(folder / "media"),
    }
    master = ["uvicorn", "cl_ml_tools.app:create_app", "--factory", "--port", str(port)]
    worker = ["celery", "-A", "cl_ml_tools", "worker", "-c", str(concurrency), "-l", "WARNING"]
    with ExitingProcesses(folder / "log.txt", variables) as processes:
        master_process = processes.start([*master, "--log-level", "warning", "--no-access-log"])
        worker_process = processes.start(worker)
        _wait_for(port, processes)
        yield Stack(port, master_process, worker_process, Redis.from_url(redis_url))


class ExitingProcesses:
    """Processes that are killed at the end, with their output in one file."""

    def __init__(self, log: Path, variables: dict[str, str]) -> None:
        self._log = log
        self._variables = variables
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, module: list[str]) -> psutil.Process:
        """Start ``python -m``."""
        with self._log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *module],
                env=self._variables,
                cwd=ROOT,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._processes.append(process)
        return psutil.Process(process.pid)

    def check(self) -> None:
        """Fail when one of them has ended."""
        if any(process.poll() is not None for process in self._processes):
            raise RuntimeError(f"a process has ended:\n{self._log.read_text(errors='replace')[-4000:]}")

    def __enter__(self) -> "ExitingProcesses":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                main = psutil.Process(process.pid)
                for member in [*main.children(recursive=True), main]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        member.kill()
            process.wait()


def _wait_for(port: int, processes: ExitingProcesses) -> None:
    """Until the master answers that workers are there."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        processes.check()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.suppress(OSError):
            connection.request("GET", "/api/health/ready")
            response = connection.getresponse()
            if response.status == 200 and b"image_resize" in response.read():
                return
        connection.close()
        time.sleep(0.1)
    processes.check()
    raise RuntimeError("the master and its worker are not ready in time")
