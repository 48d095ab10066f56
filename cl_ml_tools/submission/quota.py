"""How many unfinished jobs a user may have."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from anyio import Lock
from anyio.lowlevel import RunVar

from cl_ml_tools.common.file_storage import UploadLimits
from cl_ml_tools.common.job_control import CountsUnfinishedJobs
from cl_ml_tools.common.job_repository import JobRepository
from cl_ml_tools.errors import TooManyJobsError
from cl_ml_tools.submission.asking import ask

_locks = RunVar[WeakValueDictionary[str, Lock]]("cl_ml_tools.quota")


async def check_quota(repository: JobRepository, creator: str | None, limits: UploadLimits) -> None:
    """Refuse a user who has as many unfinished jobs as one may have; nobody's jobs are not counted.

    Raises:
        TooManyJobsError: HTTP answers it with 429.
    """
    most = limits.max_unfinished_jobs
    if most and creator is not None and isinstance(repository, CountsUnfinishedJobs):
        unfinished = await ask(repository, lambda: repository.count_unfinished(creator))
        if unfinished >= most:
            raise TooManyJobsError(
                f"You have {unfinished} unfinished jobs; {most} is the limit. Wait until some have finished."
            )


@asynccontextmanager
async def quota_kept(
    repository: JobRepository, creator: str | None, limits: UploadLimits
) -> AsyncIterator[None]:
    """Check the quota, and let no other job of the same user be added in this process until the block ends.

    Another process may add one between the check and the end: so many more than the limit there can be, one for each.

    Raises:
        TooManyJobsError: HTTP answers it with 429.
    """
    if not limits.max_unfinished_jobs or creator is None:
        yield
        return
    async with _lock_of(creator):
        await check_quota(repository, creator, limits)
        yield


def _lock_of(creator: str) -> Lock:
    """Whoever waits for a lock, or has it, keeps it in the dictionary."""
    try:
        locks = _locks.get()
    except LookupError:
        _locks.set(locks := WeakValueDictionary())
    return locks.setdefault(creator, Lock())
