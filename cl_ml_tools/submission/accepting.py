"""The step from saved files to an accepted job; no file is left behind without one."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anyio import CancelScope
from starlette.concurrency import run_in_threadpool

from cl_ml_tools.common.file_storage import FileStorage
from cl_ml_tools.common.job_control import AddsJobsOnce, Submission
from cl_ml_tools.common.job_repository import JobRepository
from cl_ml_tools.common.output_planning import in_rounds
from cl_ml_tools.common.schemas import BaseJobParams, Job
from cl_ml_tools.errors import StoreNotAskedError, StoreUnavailableError, SubmissionTooLateError
from cl_ml_tools.file_names import distinct_names
from cl_ml_tools.submission.asking import ask
from cl_ml_tools.submission.form_fields import stored_values

logger = logging.getLogger(__name__)

SavedFiles = Sequence[tuple[str, Mapping[str, object]]]
"""The names that uploads were to be saved under, and what the storage said of each."""


async def accept_job(
    repository: JobRepository,
    file_storage: FileStorage,
    saved: SavedFiles,
    *,
    job_id: str,
    task_type: str,
    params: BaseJobParams,
    output_name: Callable[[str], str],
    created_by: str | None,
    priority: int,
    idempotency_key: str | None = None,
) -> str:
    """Add one job for saved files and return its id, which is another when it was submitted before.

    The files are removed when no job uses them. When the store did not say whether it took the job, they stay.

    Args:
        repository: takes the job; with a key it must be an `AddsJobsOnce`.
        file_storage: has the files.
        saved: the inputs.
        job_id: under which they were saved.
        task_type: the task that does the job.
        params: its parameters, already valid; their paths are replaced.
        output_name: an output's name, from the name that its upload was saved under; when more outputs are expected
            than there are inputs, asked for each input again, in rounds.
        created_by: whose job it is.
        priority: 0 to 10, higher is more urgent.
        idempotency_key: the client's name for this submission.

    Raises:
        InvalidJobError: it expects more outputs than a job may have.
        Exception: what the storage or the repository raised, as it was.
    """
    try:
        outputs = await run_in_threadpool(file_storage.get_output_path, job_id)
        kept = [str(entry.get("filename") or name) for name, entry in saved]
        inputs = [str(entry["path"]) for _, entry in saved]
        count = params.model_copy(update={"input_paths": inputs}).expected_output_count()
        names = distinct_names(map(output_name, in_rounds(kept, count)))
        paths = {"input_paths": inputs, "output_paths": [str(outputs / name) for name in names]}
        stored = stored_values(params.model_copy(update=paths))
        job = Job(job_id=job_id, task_type=task_type, params=stored)
        submission = _submission(idempotency_key, job, kept, saved, priority)
    except BaseException:
        # Also when the client is gone and the request is cancelled.
        await discard(file_storage, job_id)
        raise

    def add() -> str:
        if submission is not None and isinstance(repository, AddsJobsOnce):
            return repository.add_job_once(job, submission, created_by=created_by, priority=priority)
        repository.add_job(job, created_by=created_by, priority=priority)
        return job_id

    # Once begun, the add is waited for even if the client is gone: its answer decides about the files.
    with CancelScope(shield=True):
        try:
            accepted = await ask(repository, add)
        except (SubmissionTooLateError, StoreNotAskedError):
            await discard(file_storage, job_id)
            raise
        except StoreUnavailableError:
            logger.warning("Whether job %s was stored is unknown; its files stay", job_id)
            raise
        except Exception:
            if not await _may_be_stored(repository, job_id):
                await discard(file_storage, job_id)
            raise
        if accepted != job_id:
            await discard(file_storage, job_id)
    return accepted


async def discard(file_storage: FileStorage, job_id: str) -> None:
    """Remove the files of a job that was not accepted; a failure is logged."""
    with CancelScope(shield=True):
        try:
            await run_in_threadpool(file_storage.cleanup_job, job_id)
        except Exception:
            # The error that brought us here is the one to tell.
            logger.exception("The files of job %s, which was not accepted, could not be removed", job_id)


def _submission(
    key: str | None, job: Job, names: list[str], saved: SavedFiles, priority: int
) -> Submission | None:
    if key is None:
        return None
    content: dict[str, Any] = {
        "task_type": job.task_type,
        "priority": priority,
        "params": {name: value for name, value in job.params.items() if not name.endswith("put_paths")},
        "files": [
            [name, entry.get("hash"), entry.get("size")]
            for name, (_, entry) in zip(names, saved, strict=True)
        ],
    }
    told = json.dumps(content, sort_keys=True, default=str).encode()
    return Submission(key, hashlib.sha256(told).hexdigest())


async def _may_be_stored(repository: JobRepository, job_id: str) -> bool:
    # Any database may be behind the repository, and its errors do not say whether the job was taken.
    try:
        return await ask(repository, lambda: repository.get_job(job_id)) is not None
    except Exception:
        logger.exception("Whether job %s was stored is unknown; its files stay", job_id)
        return True
