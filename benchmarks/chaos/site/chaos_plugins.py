"""What the jobs of a chaos run do: write files, and leave a trace of each run that can be judged afterwards.

A run's trace is a line at each of its beginning, its ticks (every 50 ms at least) and its end, with the time of
the machine's monotonic clock, which all processes share and which no wrong clock moves.
"""

import asyncio
import hashlib
import os
import time
from pathlib import Path
from typing import Any

from cl_ml_tools import BaseJobParams, ComputeModule, Job
from cl_ml_tools.common.compute_module import ProgressCallback

TICK_SECONDS = 0.05
FILE_BYTES = 4000
CHUNKS = 4


def content_of(job_id: str, number: int) -> bytes:
    """What a job's output file holds."""
    seed = hashlib.sha256(f"{job_id}/{number}".encode()).digest()
    return (seed * (FILE_BYTES // len(seed) + 1))[:FILE_BYTES]


class ChaosParams(BaseJobParams):
    """What a run does.

    Attributes:
        traces: the directory of the runs' traces.
        seconds: how long the run takes.
        blocking: whether it holds its event loop meanwhile.
        fails: whether it raises at its end.
        fails_first: whether its first try raises what is worth another one.
    """

    traces: str
    seconds: float = 0.0
    blocking: bool = False
    fails: bool = False
    fails_first: bool = False


class TransientError(Exception):
    """Worth another try."""


class ChaosTask(ComputeModule[ChaosParams]):
    """Writes its output files bit by bit over its time."""

    autoretry_for = (TransientError,)
    max_retries = 3
    default_retry_delay = 0.5

    @property
    def task_type(self) -> str:
        return "chaos"

    def get_schema(self) -> type[ChaosParams]:
        return ChaosParams

    async def execute(
        self, job: Job, params: ChaosParams, progress_callback: ProgressCallback | None = None
    ) -> dict[str, Any]:
        trace = Trace(job, params)
        trace.write("start")
        end = time.monotonic() + params.seconds
        for chunk in range(CHUNKS):
            until = end - params.seconds * (CHUNKS - 1 - chunk) / CHUNKS
            while (left := until - time.monotonic()) > 0:
                if params.blocking:
                    time.sleep(min(left, TICK_SECONDS))
                else:
                    await asyncio.sleep(min(left, TICK_SECONDS))
                trace.write("tick")
            if progress_callback is not None:
                progress_callback(25 * (chunk + 1))
            self.write_chunk(job, params, chunk)
        trace.write("done")
        if params.fails:
            raise RuntimeError("fails by design")
        if params.fails_first and getattr(job, "failures", 0) == 0:
            raise TransientError("fails once by design")
        return {"status": "ok", "task_output": {"files": params.output_paths}}

    def write_chunk(self, job: Job, params: ChaosParams, chunk: int) -> None:
        for number, path in enumerate(params.output_paths):
            size = FILE_BYTES // CHUNKS
            with Path(path).open("ab") as file:
                file.write(content_of(job.job_id, number)[chunk * size : (chunk + 1) * size])


class PoisonTask(ChaosTask):
    """Ends its process."""

    @property
    def task_type(self) -> str:
        return "chaos_poison"

    async def execute(
        self, job: Job, params: ChaosParams, progress_callback: ProgressCallback | None = None
    ) -> dict[str, Any]:
        Trace(job, params).write("start")
        await asyncio.sleep(params.seconds)
        os._exit(1)


class SlowTask(ChaosTask):
    """Is not done within its time limit."""

    soft_time_limit = None
    time_limit = 1.0

    @property
    def task_type(self) -> str:
        return "chaos_slow"


class Trace:
    """One run's trace; each line is written at once, so that a killed process leaves what it has done."""

    def __init__(self, job: Job, params: ChaosParams) -> None:
        self._descriptor = os.open(
            f"{params.traces}/{job.job_id}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600
        )
        self._head = f"{getattr(job, 'attempt', 0)} {os.getpid()} {os.environ.get('CHAOS_NODE', '?')}"

    def write(self, word: str) -> None:
        os.write(self._descriptor, f"{self._head} {time.monotonic():.4f} {word}\n".encode())

    def __del__(self) -> None:
        os.close(self._descriptor)
