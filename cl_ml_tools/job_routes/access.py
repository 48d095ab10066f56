"""Whose jobs a request may see."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Path

from cl_ml_tools.common.job_repository import JobRepository
from cl_ml_tools.common.schemas import Job
from cl_ml_tools.submission import ask, creator_of


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who asks.

    Attributes:
        creator: the id that their jobs have as ``created_by``, or None for nobody.
        is_admin: whether all jobs are theirs to see.
    """

    creator: str | None
    is_admin: bool

    def may_see(self, job: Job) -> bool:
        """Whether the job is theirs. A repository that does not say whose a job is shows it to everybody."""
        return self.is_admin or getattr(job, "created_by", self.creator) == self.creator


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
            sees_all = is_admin is not None and user is not None and bool(is_admin(user))
            return Viewer(creator_of(user), sees_all)

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
