"""The run of one claimed job."""

import asyncio
import inspect
import logging
import time
from collections.abc import Callable
from copy import copy
from typing import Any, Self

from pydantic import ValidationError

from cl_ml_tools.common.compute_module import ComputeModule
from cl_ml_tools.common.job_leases import Claim, Outcome, RunState
from cl_ml_tools.common.schemas import JobStatus
from cl_ml_tools.execution.failures import PluginError, causes_of, leaves_of
from cl_ml_tools.execution.finishing import patiently
from cl_ml_tools.execution.limits import RetryLater, TimeLimits, retry_for
from cl_ml_tools.execution.monitor import RunMonitor
from cl_ml_tools.execution.outputs import AttemptOutputs
from cl_ml_tools.execution.results import read_result, unread_of
from cl_ml_tools.execution.surroundings import kept_surroundings

logger = logging.getLogger(__name__)


def _is_interrupt(error: BaseException) -> bool:
    """In a program of the user's own, Ctrl-C is for the program."""
    return isinstance(error, KeyboardInterrupt)


class Execution:
    """One run of a claimed job: ``with`` keeps its lease, `run` does it.

    Args:
        module: the task.
        claim: the claim to run under.
        monitored: writes its progress and keeps its lease.
        limits: how long it may take.
        on_doubt: called before the run, whose plugin is done, waits for the store to confirm its claim.
        is_process_ending: whether a ``SystemExit`` or ``KeyboardInterrupt`` is the end of the process, not the
            plugin's doing.
        is_cancelled_by_others: whether the task that awaits `run` may be cancelled by anybody but the plugin.

    Attributes:
        unread: what nobody reads of the plugin's result, as a message; empty when there is nothing.
    """

    def __init__(
        self,
        module: ComputeModule,
        claim: Claim,
        monitored: RunMonitor,
        *,
        limits: TimeLimits,
        on_doubt: Callable[[], None] = lambda: None,
        is_process_ending: Callable[[BaseException], bool] = _is_interrupt,
        is_cancelled_by_others: bool = True,
    ) -> None:
        self._module = module
        self._claim = claim
        self._monitored = monitored
        self._limits = limits
        self._on_doubt = on_doubt
        self._is_process_ending = is_process_ending
        self._is_cancelled_by_others = is_cancelled_by_others
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._is_over_soft_limit = False
        self._is_broken_off = False
        self._stray: BaseException | None = None
        self.unread = ""
        monitored.on_stop = self._cancel_task

    def __enter__(self) -> Self:
        self._monitored.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._monitored.__exit__()

    async def run(self) -> Outcome | RetryLater | None:
        """Do the job; returns its outcome, or None when the claim was lost and nothing may be stored.

        Whatever the plugin raises is an outcome. What breaks the run from outside (a cancellation that is
        not the job's, the end of the process) goes up, after the attempt's files are removed.
        """
        job = self._claim.job
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        if self._monitored.stop_state is not None:
            return self._stopped()
        outputs = AttemptOutputs(_output_paths(job.params), self._claim.token)
        start = time.monotonic()
        try:
            task_output = await self._run_plugin(outputs)
            if not self._commit(outputs):
                return self._stopped()
        except BaseException as error:  # noqa: BLE001 - what is not the plugin's goes up from there
            try:
                return self._outcome_of(error, outputs)
            except Exception:
                # What a plugin raises, or says of its tries, may itself be broken. Its job ends all the same.
                logger.exception("job %s: no outcome can be made of a %s", job.job_id, type(error).__name__)
                return self._failed(f"{type(error).__name__}, which says no more of itself")
        finally:
            self._task = None
            outputs.discard()
        logger.info("job %s (%s) done in %.3f s", job.job_id, job.task_type, time.monotonic() - start)
        return Outcome(JobStatus.COMPLETED, task_output=task_output)

    def _commit(self, outputs: AttemptOutputs) -> bool:
        """Move the outputs to their places, unless the run has to stop."""
        while True:
            try:
                # In this thread, although it may ask the store: nothing else may happen before the files are moved.
                patiently(self._claim.job.job_id, self._monitored.confirm, self._on_doubt)
                if self._monitored.stop_state is not None:
                    return False
                outputs.commit()
                if missing := outputs.missing():
                    logger.warning(
                        "job %s: done, and did not write %s", self._claim.job.job_id, ", ".join(missing)
                    )
            except self._limits.soft_errors:
                logger.info("job %s: its soft time limit passed when it was done", self._claim.job.job_id)
            else:
                return True

    def interrupted(self, error: BaseException) -> bool:
        """Told of what was raised in the event loop, outside the plugin: whether the run has to be cancelled for it.

        That is its soft limit, or what ends a process, raised in a task of the plugin's own. The plugin sees a
        cancellation, and may clean up.
        """
        if isinstance(error, self._limits.soft_errors):
            self._is_over_soft_limit = True
            return True
        if self._goes_up(error):
            self._is_broken_off = True
            return False
        if not isinstance(error, SystemExit | KeyboardInterrupt):
            return False
        self._stray = error
        return True

    async def _run_plugin(self, outputs: AttemptOutputs) -> dict[str, Any]:
        job = self._claim.job
        outputs.prepare()
        moved = {**job.params, "output_paths": outputs.paths} if outputs.paths else job.params
        try:
            params = self._module.get_schema().model_validate(moved)
        except ValidationError as error:
            message = f"invalid parameters: {_name_fields(error)}"
            # Whoever let them in has checked them, by the schema that is installed there.
            logger.warning("job %s (%s): %s", job.job_id, job.task_type, message)
            raise PluginError(message) from error
        own_limit = None if self._limits.are_watched_elsewhere else self._limits.soft or self._limits.hard
        timeout = asyncio.timeout(own_limit)
        try:
            async with timeout:
                with kept_surroundings():
                    given = copy(job)
                    given.params = moved
                    result = self._module.execute(given, params, self._monitored.report)
                    returned = await result if inspect.isawaitable(result) else result
        except TimeoutError as error:
            if timeout.expired():
                raise _OwnLimitError from error
            raise
        if unread := unread_of(returned):
            self.unread = unread
            logger.warning("job %s: %s", job.job_id, unread)
        return dict(outputs.real(read_result(returned)))

    def _outcome_of(self, error: BaseException, outputs: AttemptOutputs) -> Outcome | RetryLater | None:
        """What the run ends with after ``error``, which goes up when it is not the plugin's."""
        job = self._claim.job
        # A task group of the plugin's raises what its tasks have raised in a group.
        errors = list(leaves_of(error))
        for leaf in filter(self._goes_up, errors):
            raise leaf
        if self._monitored.stop_state is not None:
            return self._stopped()
        cancelled = next((leaf for leaf in errors if isinstance(leaf, asyncio.CancelledError)), None)
        if any(isinstance(leaf, self._limits.soft_errors) for leaf in errors) or (
            self._is_over_soft_limit and cancelled
        ):
            # Unknown when it is one of the worker's command line, or of its app.
            seconds = "" if self._limits.soft is None else f" of {self._limits.soft:g} s"
            return self._failed(f"stopped at its soft time limit{seconds}")
        if cancelled and self._stray is not None:
            error, errors = self._stray, [self._stray]
        elif cancelled:
            is_cancelled = self._task is not None and self._task.cancelling() > 0
            if self._is_broken_off or (self._is_cancelled_by_others and is_cancelled):
                raise cancelled
            if all(isinstance(leaf, asyncio.CancelledError) for leaf in errors):
                return self._failed(
                    "CancelledError: the plugin cancelled itself, or what it awaited was cancelled"
                )
        if isinstance(error, _OwnLimitError):
            kind, limit = (
                ("soft time", self._limits.soft) if self._limits.soft else ("time", self._limits.hard)
            )
            return self._failed(f"stopped at its {kind} limit of {limit:g} s")
        if isinstance(error, PluginError):
            return self._failed(str(outputs.real(str(error))))
        detail = str(outputs.real(causes_of(errors)))
        logger.error("job %s (%s) failed", job.job_id, job.task_type, exc_info=error)
        return retry_for(self._module, job, error, detail) or self._failed(detail)

    def _goes_up(self, error: BaseException) -> bool:
        """Whether ``error`` is no plugin's, but the end of the process or of the run's coroutine."""
        if isinstance(error, SystemExit | KeyboardInterrupt):
            # WorkerShutdown and its like are SystemExits of Celery's.
            return type(error) not in (SystemExit, KeyboardInterrupt) or self._is_process_ending(error)
        return isinstance(error, GeneratorExit)

    def _cancel_task(self) -> None:
        loop, task = self._loop, self._task
        if loop is not None and task is not None and not loop.is_closed():
            loop.call_soon_threadsafe(task.cancel)

    def _stopped(self) -> Outcome | None:
        job_id = self._claim.job.job_id
        if self._monitored.stop_state is RunState.LOST:
            logger.warning("job %s: its claim has ended, this run stops", job_id)
            return None
        return Outcome(JobStatus.CANCELLED, error_message="cancelled while it ran")

    def _failed(self, message: str) -> Outcome:
        job = self._claim.job
        logger.info("job %s (%s) ends in error: %s", job.job_id, job.task_type, message)
        return Outcome(JobStatus.ERROR, error_message=message)


class _OwnLimitError(Exception):
    """The run has reached a limit that it watches itself."""


def _output_paths(params: dict[str, Any]) -> list[str]:
    paths = params.get("output_paths")
    return [str(path) for path in paths] if isinstance(paths, list) else []


def _name_fields(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'params'}: {problem['msg']}"
        for problem in error.errors(include_url=False)
    )
