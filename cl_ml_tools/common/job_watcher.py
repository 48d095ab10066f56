"""The contract of whoever lets others follow jobs as they change."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from cl_ml_tools.common.schemas import JobStatus


@dataclass(frozen=True, slots=True)
class JobEvent:
    """A change of a job.

    Attributes:
        event_id: its place in the order of all events; a later event has a greater id.
        job_id: the job.
        status: the job's status after the change.
        progress: its progress after the change, percent.
        deleted: whether the job is gone; ``status`` is then the last it had.
    """

    event_id: str
    job_id: str
    status: JobStatus
    progress: int
    deleted: bool = False

    @property
    def is_last(self) -> bool:
        """Whether the job has nothing more to tell, unless a person retries it."""
        return self.deleted or self.status.is_terminal


@runtime_checkable
class JobWatcher(Protocol):
    """Follows jobs. Belongs to one event loop."""

    def watch(self, job_id: str, *, after: str | None = None) -> AsyncIterator[JobEvent]:
        """The job's changes as they are stored, until its terminal one.

        Begins with an event that says how the job stands now, unless nothing has happened since the event
        ``after``. Changes of status are never missed; progress may be skipped, and never goes back within
        an attempt. An unknown job ends the iteration at once.

        Raises:
            cl_ml_tools.errors.StoreUnavailableError: the store cannot be read.
        """
        ...


@runtime_checkable
class JobsWatcher(JobWatcher, Protocol):
    """Follows all jobs of a creator too."""

    async def position(self) -> str:
        """The id of the newest event: `watch_jobs` after it tells all that follows.

        Raises:
            cl_ml_tools.errors.StoreUnavailableError: the store cannot be read.
        """
        ...

    def watch_jobs(
        self, *, after: str, created_by: str | None, of_anybody: bool = False
    ) -> AsyncIterator[JobEvent]:
        """The changes of a creator's jobs after an event, as they are stored, in order, without an end.

        Changes of status are never missed; progress may be skipped. When ``after`` is longer ago than events are
        kept it begins with how those jobs stand that have changed since; which were deleted is then not told.

        Args:
            after: an event's id.
            created_by: whose jobs; None means those that are nobody's.
            of_anybody: whether all jobs are meant; ``created_by`` then means nothing.

        Raises:
            cl_ml_tools.errors.StoreUnavailableError: the store cannot be read.
        """
        ...
