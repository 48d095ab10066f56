"""What a repository may offer beyond `JobRepository`, so that the routes of jobs can offer it too.

Each protocol stands for itself: the routes take what a repository has, and leave out the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from cl_ml_tools.common.job_leases import CancelAnswer
from cl_ml_tools.common.schemas import Job, JobRecord, JobStatus


@dataclass(frozen=True, slots=True)
class JobCursor:
    """A place in the list of jobs; it stays right while jobs come and go.

    Attributes:
        created_at: when the last job before it was accepted, in ms since 1970.
        job_id: that job's id.
    """

    created_at: int
    job_id: str


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Which jobs are wanted.

    Attributes:
        created_by: only this creator's jobs; None means those that are nobody's.
        of_anybody: whether all jobs are meant, whosever they are; ``created_by`` then means nothing.
        status: only jobs in this status.
        task_type: only jobs of this type.
        created_from: only jobs accepted at this time or later, in ms since 1970.
        created_before: only jobs accepted before this time, in ms since 1970.
        after: where the page before this one ended.
        limit: at most so many.
    """

    created_by: str | None = None
    of_anybody: bool = False
    status: JobStatus | None = None
    task_type: str | None = None
    created_from: int | None = None
    created_before: int | None = None
    after: JobCursor | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class JobPage:
    """Jobs, newest first, and where to go on; None when nothing is left.

    A page may be short, even empty, and not be the last: a search among very many jobs stops on the way.
    """

    jobs: Sequence[JobRecord]
    next: JobCursor | None


class Removal(StrEnum):
    """What became of a job that was to be removed."""

    REMOVED = "removed"
    """Its record is gone; its files are the caller's to remove."""
    HIDDEN = "hidden"
    """It runs. It is not shown any more; record and files go when its run has stopped."""
    UNKNOWN = "unknown"
    """There is no such job."""


@runtime_checkable
class FindsJobs(Protocol):
    """A repository that can be searched."""

    def find_jobs(self, query: JobQuery) -> JobPage:
        """The jobs that are wanted, by (creation time, id), newest first. Changes nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Submission:
    """What tells a submission that is repeated from another one.

    Attributes:
        key: the client's key, any text; it is kept by creator, for `REMEMBERED_SECONDS`.
        fingerprint: hex digits that are the same when, and only when, what is submitted is the same.
    """

    key: str
    fingerprint: str


REMEMBERED_SECONDS = 24 * 3600
"""How long a submission's key is remembered."""


@runtime_checkable
class AddsJobsOnce(Protocol):
    """A repository that knows a submission again."""

    def add_job_once(
        self, job: Job, submission: Submission, created_by: str | None = None, priority: int | None = None
    ) -> str:
        """Store a new job and return its id; or the id of the job that was stored under this submission before.

        Atomic: of any number of callers at once one stores its job. A job that was removed is forgotten.

        Raises:
            IdempotencyKeyReusedError: the key was used for another submission.
        """
        ...


@runtime_checkable
class CountsUnfinishedJobs(Protocol):
    """A repository that knows how much a creator has waiting."""

    def count_unfinished(self, created_by: str) -> int:
        """How many of the creator's jobs are queued or run."""
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """What stands behind the jobs now.

    Attributes:
        workers: by task type, how many live workers take its jobs.
        oldest_wait_seconds: how long the oldest job waits that may start; None when none does.
    """

    workers: Mapping[str, int]
    oldest_wait_seconds: float | None


@runtime_checkable
class TellsService(Protocol):
    """A repository that knows who serves it."""

    def service(self) -> Service:
        """What workers have said of themselves within `SERVING_SECONDS`."""
        ...

    def check_takes_jobs(self) -> None:
        """Return if a job could be stored now.

        Raises:
            StoreUnavailableError: none can.
        """
        ...

    def reach_broker(self) -> None:
        """Return when the broker answers.

        Raises:
            Exception: it does not, within a bounded time.
        """
        ...


SERVING_SECONDS = 30.0
"""How long it holds when a worker says what it serves; it says so three times as often."""


@runtime_checkable
class CancelsJobs(Protocol):
    """A repository whose jobs can be cancelled."""

    def cancel_job(self, job_id: str) -> CancelAnswer:
        """Cancel a job: a queued one at once, a running one by asking its run to stop. May be repeated."""
        ...


@runtime_checkable
class RetriesJobs(Protocol):
    """A repository whose jobs can be tried again by a person."""

    def retry_job(self, job_id: str) -> None:
        """Put a job that ended in ``error`` or ``cancelled`` back to its queue, with all its tries.

        Raises:
            UnknownJobError: there is no such job.
            JobStateError: its state forbids it.
        """
        ...


@runtime_checkable
class RemovesJobs(Protocol):
    """A repository that says whether a removed job still runs."""

    def remove_job(self, job_id: str) -> Removal:
        """Remove a job; one that runs is hidden at once. May be repeated."""
        ...
