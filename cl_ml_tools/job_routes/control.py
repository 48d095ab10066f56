"""Acting on jobs: cancel, retry, remove."""

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Response
from starlette.concurrency import run_in_threadpool

from cl_ml_tools.common.file_storage import FileStorage
from cl_ml_tools.common.job_control import CancelsJobs, Removal, RemovesJobs, RetriesJobs
from cl_ml_tools.common.job_leases import CancelAnswer
from cl_ml_tools.common.job_repository import JobRepository
from cl_ml_tools.common.schemas import Job
from cl_ml_tools.errors import JobStateError
from cl_ml_tools.job_routes.access import JobAccess, no_such_job
from cl_ml_tools.job_routes.state import UNKNOWN_JOB, detailed_view_of
from cl_ml_tools.job_routes.views import JobView
from cl_ml_tools.submission import ask
from cl_ml_tools.web.errors import problem_responses

logger = logging.getLogger(__name__)

_REFUSED: dict[int | str, dict[str, Any]] = {
    **UNKNOWN_JOB,
    **problem_responses({409: "The job's state forbids it."}),
}


def add_control(router: APIRouter, access: JobAccess, file_storage: FileStorage | None) -> None:
    """Add what the repository can do to a job."""
    repository = access.repository

    if isinstance(repository, CancelsJobs):

        @router.post(
            "/jobs/{job_id}/cancel",
            responses={
                **_REFUSED,
                202: {"model": JobView, "description": "The job runs, and is asked to stop."},
            },
            response_description="The job is cancelled.",
            summary="Cancel a job",
        )
        async def cancel_job(job: Annotated[Job, access.job], response: Response) -> JobView:
            """A queued job is cancelled at once, a running one as soon as its task lets go. May be repeated."""
            answer = await ask(repository, lambda: repository.cancel_job(job.job_id))
            if answer is CancelAnswer.UNKNOWN:
                raise no_such_job(job.job_id)
            now = await access.get(job.job_id)
            if answer is CancelAnswer.ENDED:
                raise JobStateError(
                    f"Job {job.job_id!r} is at its end ({now.status}): it cannot be cancelled."
                )
            if answer is CancelAnswer.STOPPING:
                response.status_code = 202
            return await detailed_view_of(now, file_storage)

    if isinstance(repository, RetriesJobs):

        @router.post("/jobs/{job_id}/retry", responses=_REFUSED, summary="Try a job again")
        async def retry_job(job: Annotated[Job, access.job]) -> JobView:
            """Put a job that ended in `error` or `cancelled` back to its queue, with all its tries."""
            await ask(repository, lambda: repository.retry_job(job.job_id))
            return await detailed_view_of(await access.get(job.job_id), file_storage)

    @router.delete("/jobs/{job_id}", responses=UNKNOWN_JOB, status_code=204, summary="Remove a job")
    async def remove_job(job: Annotated[Job, access.job]) -> None:
        """Remove a job and its files. A job that runs is stopped; its files go when it has."""
        removal = await ask(repository, lambda: _remove(repository, job.job_id))
        if removal is Removal.UNKNOWN:
            raise no_such_job(job.job_id)
        if removal is Removal.REMOVED and file_storage is not None:
            try:
                await run_in_threadpool(file_storage.cleanup_job, job.job_id)
            except OSError:
                logger.exception(
                    "The files of job %s, which is removed, could not be: the sweep does", job.job_id
                )


def _remove(repository: JobRepository, job_id: str) -> Removal:
    if isinstance(repository, RemovesJobs):
        return repository.remove_job(job_id)
    return Removal.REMOVED if repository.delete_job(job_id) else Removal.UNKNOWN
