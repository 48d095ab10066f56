"""Removes files that belong to no job any more, in small steps.

They are left by processes that died: uploads without a record, outputs of attempts that were killed. A storage's files
belong to one record of jobs: what another one, or a Redis that lost everything, does not know is not for it to remove.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Protocol, runtime_checkable

from cl_ml_tools.common.schemas import JobStatus
from cl_ml_tools.errors import StorageMismatchError
from cl_ml_tools.storage_tie import TiedRecord, TiedStorage, check_storage

logger = logging.getLogger(__name__)

CHUNK = 100
"""How many jobs one step looks at."""

MIN_AGE_SECONDS = 3600.0
"""Younger files are left alone: their record may be about to be written."""


@runtime_checkable
class SweptStorage(TiedStorage, Protocol):
    """What the sweep needs of a storage."""

    def old_jobs(self, min_age_seconds: float) -> Iterator[str]:
        """The ids of jobs whose directory is at least so old; may take long, so it is read step by step."""
        ...

    def remove_doomed(self, min_age_seconds: float) -> int:
        """Remove what a killed `cleanup_job` has left; returns how many."""
        ...

    def remove_leftovers(self, job_id: str, min_age_seconds: float) -> int:
        """Remove what unfinished uploads and attempts have left in a job's directory; returns how many."""
        ...

    def cleanup_job(self, job_id: str) -> bool:
        """Remove a job's directory and all in it."""
        ...


class JobStates(TiedRecord, Protocol):
    """What the sweep needs of a store."""

    def states(self, job_ids: Sequence[str]) -> Mapping[str, JobStatus | None]:
        """The status of each job, None where there is no record."""
        ...


def sweep(
    storage: SweptStorage, store: JobStates, *, during: AbstractContextManager[None] | None = None
) -> Iterator[int]:
    """One pass over the storage: each step looks at up to `CHUNK` jobs and yields how many things it removed.

    Any number may sweep at once. A step that cannot reach the store raises, and the pass is over.

    Args:
        storage: whose files.
        store: knows the jobs.
        during: entered around each single call that may block.

    Raises:
        StoreUnavailableError: the store does not answer.
    """
    during = during or nullcontext()
    try:
        with during:
            complaint = check_storage(storage, store)
    except StorageMismatchError as error:
        complaint = str(error)
    if complaint:
        logger.error("sweep: %s", complaint)
        return
    yield storage.remove_doomed(MIN_AGE_SECONDS)
    old = storage.old_jobs(MIN_AGE_SECONDS)
    while job_ids := list(islice(old, CHUNK)):
        removed = 0
        with during:
            states = store.states(job_ids)
        for job_id, status in states.items():
            try:
                with during:
                    if status is None:
                        removed += storage.cleanup_job(job_id)
                        logger.warning("sweep: removed the files of %s, which has no record", job_id)
                    elif status.is_terminal:
                        removed += storage.remove_leftovers(job_id, MIN_AGE_SECONDS)
            except OSError:
                logger.exception("sweep: the files of %s cannot be removed", job_id)
        yield removed
