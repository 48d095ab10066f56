"""Takes jobs from the broker's queues without a Celery worker."""

import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from celery import Celery
from kombu.common import maybe_declare
from kombu.entity import Queue
from kombu.exceptions import OperationalError

from cl_ml_tools.celery_bridge.queues import job_queue
from cl_ml_tools.common.job_leases import Claim, Owner
from cl_ml_tools.errors import StoreUnavailableError
from cl_ml_tools.stores.redis_jobs import RedisJobStore

logger = logging.getLogger(__name__)

POOL_SECONDS = 5.0
"""Longest wait for one of the app's broker connections."""

MAX_GARBAGE = 1000
"""How much that is no message is dropped from a queue in one go."""


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
        with app.pool.acquire(block=True, timeout=POOL_SECONDS) as connection, _translated(connection):
            channel = connection.default_channel
            queue = job_queue(app, task_type)
            maybe_declare(queue, channel)
            while (message := _next_message(queue.bind(channel))) is not None:
                claim = _claim(store, message, owner, lease_seconds)
                if claim is not None:
                    return claim
    return None


@contextmanager
def _translated(connection: Any) -> Iterator[None]:
    """Each transport has errors of its own for a connection that was lost.

    The connection is given up at any of them: a channel that was closed, or a queue that is gone although it
    was declared on it, would fail for ever.
    """
    try:
        yield
    except (*connection.connection_errors, *connection.channel_errors) as error:
        connection.collect()
        raise OperationalError(str(error)) from error


def _next_message(queue: Queue) -> Any:
    """The queue's next message, or None."""
    for _ in range(MAX_GARBAGE):
        try:
            return queue.get(no_ack=False)
        except (ValueError, TypeError, LookupError, AttributeError):
            # kombu's Redis transport takes it off the list before it reads it.
            logger.exception("what lay in the queue %s is no message; it is dropped", queue.name)
    return None


def _claim(store: RedisJobStore, message: Any, owner: Owner, lease_seconds: float) -> Claim | None:
    try:
        (job_id, sequence), *_ = message.decode()
        sequence = int(sequence)
    except Exception:  # a stranger's message makes its decoder raise anything
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
    try:
        message.ack()
    except Exception:  # whatever the transport raises: the claim is ours, and a redelivery is refused
        logger.warning("job %s is claimed, but its message could not be acknowledged", job_id, exc_info=True)
    if isinstance(claim, Claim):
        return claim
    logger.info("job %s is not started: %s", job_id, claim)
    return None
