"""Whose jobs a request may see."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Path

from cl_ml_tools.common.job_repository import JobRepository
from cl_ml_tools.common.schemas import Job
from cl_ml_tools.submission import Viewer, ask, viewer_of


class JobAccess:
    """The dependencies of the routes of jobs.

    Args:
        repository: any repository of jobs.
        get_current_user: any FastAPI dependency; returns None, an object with ``id``, or a dict with it.
        is_admin: tells of a user that is not None whether they see all jobs.

    Attributes:
        viewer: a dependency that gives the `Viewer`.
        job: a dependency that gives the job of the path, when the viewer may see it.
    """

    def __init__(
        self,
        repository: JobRepository,
        get_current_user: Callable[..., Any],
        is_admin: Callable[[Any], bool] | None,
    ) -> None:
        self.repository = repository

        async def viewer(user: Annotated[Any, Depends(get_current_user)]) -> Viewer:
            return viewer_of(user, is_admin)

        async def visible_job(
            job_id: Annotated[str, Path(description="The id from the answer to the upload.")],
            viewer: Annotated[Viewer, Depends(viewer)],
        ) -> Job:
            job = await self.get(job_id)
            if not viewer.may_see(job):
                raise no_such_job(job_id)
            return job

        self.viewer = Depends(viewer)
        self.job = Depends(visible_job)

    async def get(self, job_id: str) -> Job:
        """The job, whosever it is.

        Raises:
            fastapi.HTTPException: 404, there is none.
        """
        job = await ask(self.repository, lambda: self.repository.get_job(job_id))
        if job is None:
            raise no_such_job(job_id)
        return job


def no_such_job(job_id: str) -> HTTPException:
    """The answer that an unknown job gets, and somebody else's."""
    return HTTPException(404, f"There is no job {job_id!r}.")
