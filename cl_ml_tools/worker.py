"""The polling runtime: runs jobs of any repository, one at a time."""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from cl_ml_tools.common.compute_module import ComputeModule
from cl_ml_tools.common.job_leases import (
    Claim,
    Finished,
    LeasingJobRepository,
    Outcome,
    Owner,
    RunState,
)
from cl_ml_tools.common.job_repository import JobRepository
from cl_ml_tools.common.schemas import JobStatus
from cl_ml_tools.execution import (
    Execution,
    LeasedRun,
    RetryLater,
    finish,
    lease_clock,
    limits_of,
    read_percent,
    retry_later,
)
from cl_ml_tools.registry import load_tasks
from cl_ml_tools.settings import Settings

logger = logging.getLogger(__name__)


def get_task_registry() -> dict[str, ComputeModule]:
    """The tasks installed on this node, by task type.

    Raises:
        PluginLoadError: a plugin cannot be loaded.
    """
    return load_tasks()


class Worker:
    """Takes jobs from a repository and runs them in the caller's event loop.

    A plugin may block that loop while it works. On a repository that keeps leases
    (`cl_ml_tools.celery_bridge.CeleryJobRepository`) a thread extends the job's lease meanwhile, and any
    number of these workers and of Celery workers share the jobs.

    It does not recover: on such a repository it starts no lost job again, no try that had to wait, and sweeps nothing.
    A Celery worker, or ``celery -A cl_ml_tools ml recover --for 120`` again and again, has to run beside it.

    Args:
        repository: any repository of jobs.
        task_registry: tasks by task type; all installed ones unless given.
    """

    def __init__(
        self, repository: JobRepository, task_registry: Mapping[str, ComputeModule] | None = None
    ) -> None:
        self._repository = repository
        self._tasks = dict(get_task_registry() if task_registry is None else task_registry)
        self._owner = Owner(f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}", os.getpid())
        self._settings = Settings.from_environment()

    def get_supported_task_types(self) -> list[str]:
        """The task types that this worker can run, sorted."""
        return sorted(self._tasks)

    async def run_once(self, task_types: list[str] | None = None) -> bool:
        """Run one job to its end; False when none is queued.

        What a plugin does wrong becomes its job's error. What the repository raises goes up.

        Args:
            task_types: only jobs of these types; all supported ones unless given.
        """
        asked = sorted(self._tasks) if task_types is None else task_types
        wanted = [name for name in asked if name in self._tasks]
        if not wanted:
            return False
        if isinstance(self._repository, LeasingJobRepository):
            return await self._run_leased(self._repository, wanted)
        # In this thread, as repositories for 0.2.0 expect: many database connections allow no other.
        job = self._repository.fetch_next_job(wanted)
        if job is None:
            return False
        run = _PlainRun(self._repository, job.job_id, self._settings.progress_interval_seconds)
        claim = Claim(job, secrets.token_hex(8))
        module = self._tasks[job.task_type]
        with Execution(module, claim, run, limits=limits_of(module, self._settings)) as execution:
            ended = await execution.run()
            if isinstance(ended, RetryLater):
                # Without leases there is nobody who would start it again.
                ended = Outcome(JobStatus.ERROR, error_message=ended.detail)
            if ended is not None:
                finish(claim, ended, run, run)
        return True

    async def _run_leased(self, repository: LeasingJobRepository, wanted: list[str]) -> bool:
        lease_seconds = self._settings.lease_seconds
        claimed_at = lease_clock()
        claim = await asyncio.to_thread(
            repository.claim_next_job, wanted, owner=self._owner, lease_seconds=lease_seconds
        )
        if claim is None:
            return False
        module = self._tasks[claim.job.task_type]
        limits = limits_of(module, self._settings)
        monitored = LeasedRun(
            repository.leases,
            job_id=claim.job.job_id,
            token=claim.token,
            owner=self._owner,
            claimed_at=claimed_at,
            lease_seconds=lease_seconds,
            progress_interval_seconds=self._settings.progress_interval_seconds,
            time_limit=limits.hard,
        )
        with Execution(module, claim, monitored, limits=limits) as execution:
            ended = await execution.run()
            if isinstance(ended, RetryLater):
                requeued = await asyncio.to_thread(retry_later, claim, ended, repository.leases, self._owner)
                if requeued.dispatch is not None:
                    await asyncio.to_thread(repository.send, requeued.dispatch)
            elif ended is not None:
                await asyncio.to_thread(finish, claim, ended, repository.leases, monitored)
        return True


class _PlainRun:
    """A run whose repository knows no leases: its progress and outcome go through ``update_job``.

    Everything is written in the event loop's thread.
    """

    def __init__(self, repository: JobRepository, job_id: str, progress_interval_seconds: float) -> None:
        self._repository = repository
        self._job_id = job_id
        self._interval = progress_interval_seconds
        self._loop = asyncio.get_running_loop()
        self._progress = 0
        self._written = 0
        self._next_write = 0.0
        self._ended = False
        self.stop_state: RunState | None = None
        self.on_stop: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True

    def report(self, percent: float) -> None:
        """Note progress, from any thread; see `RunMonitor.report`."""
        progress = read_percent(self._job_id, percent)
        if progress <= self._progress or self._ended:
            return
        self._progress = progress
        try:
            in_loop = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            in_loop = False
        if in_loop:
            self._write_when_due()
        else:
            self._loop.call_soon_threadsafe(self._write_when_due)

    def flush(self) -> None:
        """See `RunMonitor.flush`."""
        if self._progress > self._written:
            self._repository.update_job(self._job_id, progress=self._progress)
            self._written = self._progress

    def confirm(self) -> None:
        """See `RunMonitor.confirm`; a plain run has no lease, and its limits are watched by its execution."""

    def finish(self, job_id: str, *, token: str, outcome: Outcome) -> Finished:
        """Write the outcome."""
        fields: dict[str, Any] = {"status": str(outcome.status)}
        if outcome.task_output is not None:
            fields |= {"progress": 100, "task_output": outcome.task_output}
        if outcome.error_message is not None:
            fields["error_message"] = outcome.error_message
        return Finished.STORED if self._repository.update_job(job_id, **fields) else Finished.LOST

    def _write_when_due(self) -> None:
        if self._ended or self._progress == self._written:
            return
        now = time.monotonic()
        if now < self._next_write:
            self._loop.call_later(self._next_write - now, self._write_when_due)
            return
        self._next_write = now + self._interval
        try:
            self.flush()
        except Exception:  # progress is worth no job; the outcome's write will tell
            logger.exception("job %s: its progress could not be written", self._job_id)
