"""The contract of a repository of jobs."""

from typing import Any, Protocol, runtime_checkable

from cl_ml_tools.common.schemas import Job


@runtime_checkable
class JobRepository(Protocol):
    """Keeps jobs and hands them out. Any database can be behind it.

    The master calls one without leases in its event loop's thread, one call at a time, and so does a `Worker`.
    """

    def add_job(self, job: Job, created_by: str | None = None, priority: int | None = None) -> str:
        """Store a new job and return its id. From then on it is accepted.

        Args:
            job: the job; its id must be new.
            created_by: whose job it is.
            priority: 0 to 10, higher is more urgent; None means 5.
        """
        ...

    def get_job(self, job_id: str) -> Job | None:
        """The job, or None when there is none."""
        ...

    def update_job(self, job_id: str, **fields: Any) -> bool:
        """Change fields of a job; False when there is none, or the change is refused."""
        ...

    def fetch_next_job(self, task_types: list[str]) -> Job | None:
        """Claim the most urgent queued job of these types, atomically: no two callers get one job.

        Within a priority first come, first served. None when nothing is queued.
        """
        ...

    def delete_job(self, job_id: str) -> bool:
        """Remove a job; False when there is none."""
        ...
