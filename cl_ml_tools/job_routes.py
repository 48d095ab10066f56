"""HTTP for jobs: their state, and their changes as they happen."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, HTTPException
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field

from cl_ml_tools.common.job_repository import JobRepository
from cl_ml_tools.common.job_watcher import JobWatcher
from cl_ml_tools.common.schemas import AttemptEnd, Job, JobStatus
from cl_ml_tools.http_errors import ERROR_TRANSLATION
from cl_ml_tools.submission import ask, creator_of


class JobView(Job):
    """A job as a client sees it. What the repository does not know is null.

    Times are milliseconds since 1970.
    """

    priority: int | None = None
    attempt: int | None = None
    history: list[AttemptEnd] = Field(default_factory=list)
    created_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None


class JobChange(BaseModel):
    """The data of a server-sent event. Output and message come with the terminal one."""

    job_id: str
    status: JobStatus
    progress: int
    task_output: dict[str, Any] | None = None
    error_message: str | None = None


def create_job_router(
    repository: JobRepository, get_current_user: Callable[..., Any], *, watcher: JobWatcher | None = None
) -> APIRouter:
    """The routes of jobs, to be included in any app.

    A user sees only jobs of their own; where ``get_current_user`` returns None all jobs are shared.

    Args:
        repository: any repository of jobs.
        get_current_user: any FastAPI dependency; returns None, an object with ``id``, or a dict with ``id``.
        watcher: follows the repository's jobs; without it there is no route for events.
    """
    router = APIRouter(tags=["jobs"], dependencies=[ERROR_TRANSLATION])

    async def visible_job(job_id: str, user: Annotated[Any, Depends(get_current_user)]) -> Job:
        job = await ask(repository, lambda: repository.get_job(job_id))
        creator = creator_of(user)
        # A repository that does not say whose a job is shows it to everybody.
        if job is None or getattr(job, "created_by", creator) != creator:
            raise HTTPException(404, f"There is no job {job_id!r}.")
        return job

    not_found: dict[int | str, dict[str, Any]] = {404: {"description": "There is no such job."}}

    @router.get("/jobs/{job_id}", responses=not_found, summary="How a job stands")
    async def get_job(job: Annotated[Job, Depends(visible_job)]) -> JobView:
        return JobView.model_validate(job, from_attributes=True)

    if watcher is not None:

        @router.get(
            "/jobs/{job_id}/events",
            response_class=EventSourceResponse,
            responses=not_found,
            summary="Follow a job",
            description=(
                "Server-sent events: `status` when the job's status has changed, `progress` when only its "
                "progress has. The first one says how the job stands now; the stream ends with the job's "
                "terminal status. A client that comes back with `Last-Event-ID` misses no change of status."
            ),
        )
        async def follow_job(
            job: Annotated[Job, Depends(visible_job)],
            last_event_id: Annotated[str | None, Header(pattern=r"^\d{1,20}(-\d{1,20})?$")] = None,
        ) -> AsyncIterator[ServerSentEvent]:
            known: JobStatus | None = None
            async for event in watcher.watch(job.job_id, after=last_event_id):
                change = JobChange(job_id=event.job_id, status=event.status, progress=event.progress)
                if event.deleted:
                    yield ServerSentEvent(event="deleted", id=event.event_id, data=change)
                    return
                if event.status.is_terminal:
                    ended = await ask(repository, lambda: repository.get_job(job.job_id))
                    if ended is not None:
                        change.task_output, change.error_message = ended.task_output, ended.error_message
                name = "progress" if event.status is known else "status"
                known = event.status
                yield ServerSentEvent(event=name, id=event.event_id, data=change)

    return router
