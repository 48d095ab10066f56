"""Tasks that do what a test asks for, installed the way strangers install theirs."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from cl_ml_tools import BaseJobParams, ComputeModule, Job
from cl_ml_tools.common.compute_module import ProgressCallback
from cl_ml_tools.errors import BadInputError


class ProbeParams(BaseJobParams):
    """What to do, step by step: see `ProbeTask`.

    With ``validation_gate`` their validation, which comes between claim and run, waits until that file exists;
    it makes one with ``.reached`` behind the name.
    """

    steps: list[list[Any]] = Field(default_factory=list)
    log: str
    validation_gate: str = ""

    @model_validator(mode="after")
    def _wait(self) -> Self:
        if self.validation_gate:
            Path(f"{self.validation_gate}.reached").touch()
            while not Path(self.validation_gate).exists():
                time.sleep(0.01)
        return self


class TransientError(Exception):
    """Worth another try."""


class ProbeTask(ComputeModule[ProbeParams]):
    """Appends ``<job id> <word>`` lines to ``params.log``; each step is a method's name and its arguments."""

    autoretry_for = (TransientError, BadInputError)
    max_retries = 2
    retry_backoff = True
    retry_jitter = False

    @property
    def task_type(self) -> str:
        return "probe"

    def get_schema(self) -> type[ProbeParams]:
        return ProbeParams

    async def execute(
        self, job: Job, params: ProbeParams, progress_callback: ProgressCallback | None = None
    ) -> dict[str, Any]:
        probe = Probe(job, params, progress_callback)
        probe.log("start")
        for name, *arguments in params.steps:
            returned = getattr(probe, name)(*arguments)
            if asyncio.iscoroutine(returned):
                await returned
        probe.log("end")
        return {"status": "ok", "task_output": {"pid": os.getpid(), **probe.output}}


class OtherProbeTask(ProbeTask):
    """The same, tried again at once."""

    retry_backoff = False
    default_retry_delay = 0

    @property
    def task_type(self) -> str:
        return "probe_other"


class Probe:
    def __init__(self, job: Job, params: ProbeParams, report: ProgressCallback | None) -> None:
        self.job, self.params, self.report = job, params, report
        self.output: dict[str, Any] = {}

    def log(self, word: str) -> None:
        with Path(self.params.log).open("a") as file:
            file.write(f"{self.job.job_id} {word} {os.getpid()}\n")

    def progress(self, *values: Any) -> None:
        assert self.report is not None
        for value in values:
            self.report(value)

    def progress_from_a_thread(self, *values: Any) -> None:
        thread = threading.Thread(target=self.progress, args=values)
        thread.start()
        thread.join()

    def wait_for(self, path: str) -> None:
        """Blocks, without letting the event loop run."""
        while not Path(path).exists():
            time.sleep(0.01)

    async def await_for(self, path: str) -> None:
        while not Path(path).exists():
            await asyncio.sleep(0.01)

    async def report_until(self, path: str) -> None:
        while not Path(path).exists():
            self.progress(1)
            await asyncio.sleep(0.01)

    async def swallow_exceptions_until(self, path: str) -> None:
        """Reports, and goes on whatever ``Exception`` comes of it."""
        while not Path(path).exists():
            try:
                self.progress(1)
            except Exception:  # noqa: BLE001 - as plugins do it
                self.log("swallowed")
            time.sleep(0.01)

    async def await_and_clean_up(self, path: str) -> None:
        try:
            await self.await_for(path)
        finally:
            self.log("cleaned-up")

    async def sleep_and_clean_up(self, _: str) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            self.log("cleaned-up")

    def wait_and_clean_up(self, path: str) -> None:
        try:
            self.wait_for(path)
        finally:
            self.log("cleaned-up")

    def start_program(self, *program: str) -> None:
        """And leave it alone."""
        self.log(f"program-{subprocess.Popen(program).pid}")

    def run_program(self, *program: str) -> None:
        with subprocess.Popen(program) as started:
            try:
                self.log(f"program-{started.pid}")
                started.wait()
            except BaseException:
                # As ``subprocess.run`` does.
                started.kill()
                raise

    def ignore_its_end_until(self, path: str) -> None:
        """Whatever it is told."""
        while not Path(path).exists():
            try:
                self.wait_for(path)
            except BaseException as error:  # noqa: BLE001 - as plugins do it
                self.log(type(error).__name__)

    def ignore_soft_limit_until(self, path: str) -> None:
        while not Path(path).exists():
            try:
                self.wait_for(path)
            except Exception as error:  # noqa: BLE001 - as plugins do it
                self.log(type(error).__name__)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def hold_the_gil(self, seconds: float) -> None:
        """Keeps every other thread of the process from running, as a bad C extension does."""
        interval = sys.getswitchinterval()
        sys.setswitchinterval(10_000)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass
        sys.setswitchinterval(interval)

    def kill_self(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def kill_self_once(self, path: str) -> None:
        """At the first attempt."""
        if not Path(path).exists():
            Path(path).touch()
            self.kill_self()

    def exit_at_once(self, code: int) -> None:
        os._exit(code)

    def exit(self, code: int) -> None:
        sys.exit(code)

    def fail_for_now(self, message: str) -> None:
        raise TransientError(message)

    def fail_for_now_unless(self, path: str) -> None:
        if not Path(path).exists():
            self.fail_for_now(f"there is no {path}")

    def find_bad_input(self, message: str) -> None:
        raise BadInputError(message)

    def fail(self, message: str) -> None:
        raise RuntimeError(message)

    def touch(self, path: str) -> None:
        Path(path).touch()

    def write_pid(self) -> None:
        self.write(str(os.getpid()))

    def write(self, text: str) -> None:
        for path in self.params.output_paths:
            Path(path).write_text(text)
        self.output["processed_files"] = self.params.output_paths
