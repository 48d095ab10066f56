"""Takes jobs from the broker's queues without a Celery worker."""

import logging
import secrets
from collections.abc import Sequence
from typing import Any

from celery import Celery
from kombu.common import maybe_declare

from cl_ml_tools.celery_bridge.queues import job_queue
from cl_ml_tools.common.job_leases import Claim, Owner
from cl_ml_tools.errors import StoreUnavailableError
from cl_ml_tools.stores.redis_jobs import RedisJobStore

logger = logging.getLogger(__name__)

POOL_SECONDS = 5.0
"""Longest wait for one of the app's broker connections."""


def claim_next_job(
    app: Celery, store: RedisJobStore, task_types: Sequence[str], *, owner: Owner, lease_seconds: float
) -> Claim | None:
    """Claim the most urgent queued job of these types, from the queues that Celery workers consume too.

    The record says which queue to ask first; the message decides. Messages whose claim is refused are taken
    out on the way, as a worker does.

    Raises:
        StoreUnavailableError: the record cannot be reached; no message is lost.
        kombu.exceptions.OperationalError: the broker cannot be reached.
    """
    for task_type in store.peek(task_types):
        # A message is taken and acknowledged on one channel, so the connection is held meanwhile.
        with app.pool.acquire(block=True, timeout=POOL_SECONDS) as connection:
            channel = connection.default_channel
            queue = job_queue(app, task_type)
            maybe_declare(queue, channel)
            while (message := queue.bind(channel).get(no_ack=False)) is not None:
                claim = _claim(store, message, owner, lease_seconds)
                if claim is not None:
                    return claim
    return None


def _claim(store: RedisJobStore, message: Any, owner: Owner, lease_seconds: float) -> Claim | None:
    try:
        (job_id, sequence), *_ = message.decode()
        sequence = int(sequence)
    except (ValueError, TypeError, KeyError):
        logger.exception("a message that is none of ours was in a queue of ours; it is dropped")
        message.reject()
        return None
    try:
        claim = store.claim(
            str(job_id),
            token=secrets.token_hex(8),
            owner=owner,
            sequence=sequence,
            lease_seconds=lease_seconds,
        )
    except StoreUnavailableError:
        message.requeue()
        raise
    message.ack()
    if isinstance(claim, Claim):
        return claim
    logger.info("job %s is not started: %s", job_id, claim)
    return None
