"""How jobs stand: one of them, or those that match."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Annotated, cast

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool

from cl_ml_tools.common.file_storage import FileStorage
from cl_ml_tools.common.job_control import FindsJobs, JobCursor, JobQuery
from cl_ml_tools.common.job_watcher import JobEvent, JobWatcher
from cl_ml_tools.common.schemas import Job, JobStatus
from cl_ml_tools.job_routes.access import JobAccess
from cl_ml_tools.job_routes.views import JobList, JobView, OutputSummary
from cl_ml_tools.output_files import list_outputs
from cl_ml_tools.submission import Viewer, ask
from cl_ml_tools.web.errors import problem_responses

MAX_WAIT_SECONDS = 60.0
"""The longest that a request may wait for a job's end."""

POLL_SECONDS = 0.5
"""How often a waiting request asks a repository that nobody watches."""

MAX_TIME_MS = 2**53 - 1
"""The latest time that is taken: what a double, JavaScript's number, holds exactly."""

UNKNOWN_JOB = problem_responses({404: "There is no such job.", 422: "A value is not valid."})


def add_state(
    router: APIRouter, access: JobAccess, watcher: JobWatcher | None, file_storage: FileStorage | None
) -> None:
    """Add ``GET /jobs/{job_id}``, and ``GET /jobs`` when the repository can be searched."""
    repository = access.repository

    if isinstance(repository, FindsJobs):

        @router.get("/jobs", responses=problem_responses({422: "A value is not valid."}), summary="Find jobs")
        async def find_jobs(
            viewer: Annotated[Viewer, access.viewer],
            status: Annotated[JobStatus | None, Query(description="Only jobs in this status.")] = None,
            task_type: Annotated[
                str | None, Query(max_length=64, description="Only jobs of this type.")
            ] = None,
            created_from: Annotated[
                int | None,
                Query(ge=0, le=MAX_TIME_MS, description="Only jobs as old as this or newer, ms since 1970."),
            ] = None,
            created_before: Annotated[
                int | None,
                Query(ge=0, le=MAX_TIME_MS, description="Only jobs older than this, ms since 1970."),
            ] = None,
            limit: Annotated[int, Query(ge=1, le=200, description="How many at most.")] = 50,
            cursor: Annotated[
                str | None,
                Query(
                    pattern=r"^[0-9]{1,15}\.[A-Za-z0-9_-]{1,128}$", description="`next` of the page before."
                ),
            ] = None,
        ) -> JobList:
            """Jobs by the time they were accepted, newest first. Pages stay right while jobs come and go."""
            query = JobQuery(
                created_by=viewer.creator,
                of_anybody=viewer.is_admin,
                status=status,
                task_type=task_type or None,
                created_from=created_from,
                created_before=created_before,
                after=_cursor(cursor),
                limit=limit,
            )
            page = await ask(repository, lambda: repository.find_jobs(query))
            following = f"{page.next.created_at}.{page.next.job_id}" if page.next else None
            return JobList(jobs=[view_of(job) for job in page.jobs], next=following)

    @router.get("/jobs/{job_id}", responses=UNKNOWN_JOB, summary="How a job stands")
    async def get_job(
        job: Annotated[Job, access.job],
        wait: Annotated[
            float,
            Query(
                ge=0,
                le=MAX_WAIT_SECONDS,
                description="Answer when the job is at its end, or after so many seconds.",
            ),
        ] = 0,
    ) -> JobView:
        if wait and not JobStatus(job.status).is_terminal:
            await _wait_for_end(access, watcher, job.job_id, wait)
            job = await access.get(job.job_id)
        return await detailed_view_of(job, file_storage)


def view_of(job: Job) -> JobView:
    """The job, without what its files say."""
    return JobView.model_validate(job, from_attributes=True)


async def detailed_view_of(job: Job, file_storage: FileStorage | None) -> JobView:
    """The job with its outputs, when it is completed."""
    view = view_of(job)
    if file_storage is not None and job.status == JobStatus.COMPLETED:
        folder = await run_in_threadpool(file_storage.get_output_path, job.job_id)
        view.outputs = [
            OutputSummary(name=file.name, size=file.size, media_type=file.media_type)
            for file in await run_in_threadpool(list_outputs, folder)
        ]
    return view


async def _wait_for_end(access: JobAccess, watcher: JobWatcher | None, job_id: str, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            if watcher is None:
                # A plain repository tells nobody of changes.
                for _ in range(int(seconds / POLL_SECONDS) + 1):
                    if JobStatus((await access.get(job_id)).status).is_terminal:
                        break
                    await asyncio.sleep(POLL_SECONDS)
                return
            events = cast("AsyncGenerator[JobEvent, None]", watcher.watch(job_id))
            async with aclosing(events):
                async for _ in events:
                    """Until its last one."""


def _cursor(text: str | None) -> JobCursor | None:
    if text is None:
        return None
    created_at, _, job_id = text.partition(".")
    return JobCursor(int(created_at), job_id)
