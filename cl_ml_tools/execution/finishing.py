"""Storing the end of a run, for as long as that takes."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from cl_ml_tools.common.job_leases import (
    Claim,
    Finished,
    JobLeases,
    Outcome,
    OutcomeStore,
    Owner,
    RequeueCause,
    Requeued,
)
from cl_ml_tools.common.schemas import JobStatus
from cl_ml_tools.errors import StoreUnavailableError
from cl_ml_tools.execution.limits import RetryLater
from cl_ml_tools.execution.monitor import RunMonitor

logger = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE_SECONDS = 3600.0
"""How long a claim or an outcome waits for a store that is away; after that recovery decides about the job."""


def finish(
    claim: Claim,
    outcome: Outcome,
    store: OutcomeStore,
    monitored: RunMonitor,
    on_waiting: Callable[[], None] = lambda: None,
) -> Finished:
    """Store the outcome of a run, waiting for a store that is away. Blocks; the lease is kept meanwhile.

    Args:
        claim: the claim that the run had.
        outcome: how it ended.
        store: where to.
        monitored: holds the last progress, which an unfinished job shows.
        on_waiting: called once, before the first wait.

    Raises:
        StoreUnavailableError: the store was away for longer than `PATIENCE_SECONDS`.
    """

    def store_it() -> Finished:
        if outcome.status is not JobStatus.COMPLETED:
            monitored.flush()
        return store.finish(claim.job.job_id, token=claim.token, outcome=outcome)

    finished = patiently(claim.job.job_id, store_it, on_waiting)
    if finished is Finished.LOST:
        logger.warning("job %s: its claim has ended, this outcome is dropped", claim.job.job_id)
    return finished


def retry_later(claim: Claim, retry: RetryLater, leases: JobLeases, owner: Owner) -> Requeued:
    """Put a failed job back, to be tried again; at its last try it ends in ``error``.

    Raises:
        StoreUnavailableError: the store was away for longer than `PATIENCE_SECONDS`.
    """
    return patiently(
        claim.job.job_id,
        lambda: leases.requeue(
            claim.job.job_id,
            owner=owner,
            cause=RequeueCause.FAILED,
            detail=retry.detail,
            token=claim.token,
            max_retries=retry.max_retries,
            delay_seconds=retry.delay_seconds,
        ),
    )


def give_back(claim: Claim, leases: JobLeases, owner: Owner) -> Requeued:
    """Put a job back that cannot be done here; counts as no failure of the job.

    Raises:
        StoreUnavailableError: the store was away for longer than `PATIENCE_SECONDS`.
    """
    job_id, token = claim.job.job_id, claim.token
    released = RequeueCause.RELEASED
    return patiently(
        job_id,
        lambda: leases.requeue(job_id, owner=owner, cause=released, detail="", token=token),
    )


def patiently(job_id: str, act: Callable[[], T], on_waiting: Callable[[], None] = lambda: None) -> T:
    """What ``act`` answers, asked again for as long as the store is away.

    Raises:
        StoreUnavailableError: it was away for longer than `PATIENCE_SECONDS`.
    """
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    pause = 0.1
    while True:
        try:
            return act()
        except StoreUnavailableError as error:
            if time.monotonic() > give_up_at:
                raise
            if pause == 0.1:
                on_waiting()
            logger.warning("job %s waits for the store: %s", job_id, error)
            time.sleep(pause)
            pause = min(pause * 2, 5.0)
