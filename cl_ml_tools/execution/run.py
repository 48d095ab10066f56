"""The run of one claimed job."""

import asyncio
import inspect
import json
import logging
import time
from typing import Any, Self

from pydantic import BaseModel, ValidationError

from cl_ml_tools.common.compute_module import ComputeModule
from cl_ml_tools.common.job_leases import Claim, Finished, Outcome, OutcomeStore, RunState
from cl_ml_tools.common.schemas import JobStatus
from cl_ml_tools.errors import JobStopped, StoreUnavailableError
from cl_ml_tools.execution.monitor import RunMonitor
from cl_ml_tools.execution.outputs import AttemptOutputs

logger = logging.getLogger(__name__)

OUTCOME_PATIENCE_SECONDS = 3600.0
"""How long an outcome waits for a store that is away; after that recovery decides about the job."""


class PluginError(Exception):
    """A plugin said that the job failed, or returned what is no result."""


class Execution:
    """One run of a claimed job: ``with`` keeps its lease, `run` does it, `finish` stores the outcome.

    Args:
        module: the task.
        claim: the claim to run under.
        leases: the store that gave it.
        monitored: writes its progress and keeps its lease.
    """

    def __init__(
        self, module: ComputeModule, claim: Claim, leases: OutcomeStore, monitored: RunMonitor
    ) -> None:
        self._module = module
        self._claim = claim
        self._leases = leases
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._monitored = monitored
        monitored.on_stop = self._cancel_task

    def __enter__(self) -> Self:
        self._monitored.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._monitored.__exit__()

    async def run(self) -> Outcome | None:
        """Do the job; returns its outcome, or None when the claim was lost and nothing may be stored.

        An exception of the plugin is an outcome. What breaks the run from outside (a cancellation that is
        not the job's, ``SystemExit``) goes up, after the attempt's files are removed.
        """
        job = self._claim.job
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        outputs = AttemptOutputs(_output_paths(job.params), self._claim.token)
        start = time.monotonic()
        try:
            task_output = await self._run_plugin(outputs)
            if self._monitored.stop_state is not None:
                return self._stopped()
            outputs.commit()
        except asyncio.CancelledError:
            if self._monitored.stop_state is not None:
                return self._stopped()
            if self._task is not None and self._task.cancelling():
                raise
            return self._failed("CancelledError: the plugin awaited something that was cancelled")
        except ValidationError as error:
            return self._failed(f"invalid parameters: {_name_fields(error)}")
        except PluginError as error:
            return self._failed(str(error))
        except (Exception, JobStopped, BaseExceptionGroup) as error:
            # JobStopped comes in a group when the plugin reported from a task of its own asyncio.TaskGroup.
            if self._monitored.stop_state is not None:
                return self._stopped()
            logger.exception("job %s (%s) failed", job.job_id, job.task_type)
            return self._failed(str(outputs.real(f"{type(error).__name__}: {error}")))
        finally:
            self._task = None
            outputs.discard()
        logger.info(
            "job %s (%s) done in %.3f s",
            job.job_id,
            job.task_type,
            time.monotonic() - start,
        )
        return Outcome(JobStatus.COMPLETED, task_output=task_output)

    def finish(self, outcome: Outcome) -> Finished | None:
        """Store the outcome, waiting for a store that is away; None when patience ended first.

        Blocks; the lease is extended meanwhile.
        """
        job_id = self._claim.job.job_id
        give_up_at = time.monotonic() + OUTCOME_PATIENCE_SECONDS
        pause = 0.1
        while True:
            try:
                if outcome.status is not JobStatus.COMPLETED:
                    self._monitored.flush()
                finished = self._leases.finish(job_id, token=self._claim.token, outcome=outcome)
                break
            except StoreUnavailableError as error:
                if time.monotonic() > give_up_at:
                    logger.exception("job %s: its outcome could not be stored, given up", job_id)
                    return None
                logger.warning("job %s: its outcome waits for the store: %s", job_id, error)
                time.sleep(pause)
                pause = min(pause * 2, 5.0)
        if finished is Finished.LOST:
            logger.warning("job %s: another claim has taken it over, this outcome is dropped", job_id)
        return finished

    async def _run_plugin(self, outputs: AttemptOutputs) -> dict[str, Any]:
        job = self._claim.job
        outputs.prepare()
        moved = {**job.params, "output_paths": outputs.paths} if outputs.paths else job.params
        params = self._module.get_schema().model_validate(moved)
        result = self._module.execute(
            job.model_copy(update={"params": moved}), params, self._monitored.report
        )
        returned = await result if inspect.isawaitable(result) else result
        task_output = _read_result(returned)
        return dict(outputs.real(task_output))

    def _cancel_task(self) -> None:
        loop, task = self._loop, self._task
        if loop is not None and task is not None and not loop.is_closed():
            loop.call_soon_threadsafe(task.cancel)

    def _stopped(self) -> Outcome | None:
        job_id = self._claim.job.job_id
        if self._monitored.stop_state is RunState.LOST:
            logger.warning("job %s: another claim has taken it over, this run stops", job_id)
            return None
        return Outcome(JobStatus.CANCELLED, error_message="cancelled while it ran")

    def _failed(self, message: str) -> Outcome:
        job = self._claim.job
        logger.info("job %s (%s) ends in error: %s", job.job_id, job.task_type, message)
        return Outcome(JobStatus.ERROR, error_message=message)


def _output_paths(params: dict[str, Any]) -> list[str]:
    paths = params.get("output_paths")
    return [str(path) for path in paths] if isinstance(paths, list) else []


def _name_fields(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'params'}: {problem['msg']}"
        for problem in error.errors(include_url=False)
    )


def _read_result(returned: object) -> dict[str, Any]:
    """The task's output, as JSON values.

    Raises:
        PluginError: the plugin says that it failed, or what it returned is no result.
    """
    if not isinstance(returned, dict) or returned.get("status") not in ("ok", "error"):
        raise PluginError(
            "the plugin returned no result: it must be {'status': 'ok', 'task_output': {...}} or "
            f"{{'status': 'error', 'error': '...'}}, not {returned!r:.200}"
        )
    if returned["status"] == "error":
        raise PluginError(str(returned.get("error") or "the plugin gave no reason"))
    task_output = returned.get("task_output")
    if isinstance(task_output, BaseModel):
        task_output = task_output.model_dump(mode="json")
    if task_output is None:
        task_output = {}
    if not isinstance(task_output, dict):
        raise PluginError(f"the plugin's task_output must be a dict, not {type(task_output).__name__}")
    try:
        return dict(json.loads(json.dumps(task_output, allow_nan=False)))
    except (TypeError, ValueError, RecursionError) as error:
        raise PluginError(f"the plugin's task_output cannot be written as JSON: {error}") from error
