"""Sends the messages that start jobs."""

import logging
from collections.abc import Sequence

from celery import Celery
from kombu.exceptions import BatchPublishError

from cl_ml_tools.celery_bridge.queues import (
    celery_task_id,
    celery_task_name,
    is_on_redis,
    job_queue,
    message_priority,
)
from cl_ml_tools.common.job_leases import Dispatch

logger = logging.getLogger(__name__)

CONFIRM_SECONDS = 2.0
"""How long RabbitMQ may take to confirm that it has a message; later, recovery sends the message again."""

BATCH_COMMANDS = 1000
"""How many commands go to Redis at once."""


def send(app: Celery, dispatches: Sequence[Dispatch]) -> bool:
    """Send the messages that start jobs; False when the broker did not take them all, which is logged.

    The jobs stay accepted: their records say that they are queued, and recovery sends again. On Redis a message
    and its ``task-sent`` event go in one round trip, and so do many messages.
    """
    try:
        try:
            _publish(app, dispatches)
        except BatchPublishError:
            # The connection was one of before a restart of Redis, or one that a firewall has forgotten. What did
            # arrive is doubled, which is harmless.
            _publish(app, dispatches)
    except Exception:
        job_ids = ", ".join(dispatch.job_id for dispatch in dispatches[:10])
        more = f" and {len(dispatches) - 10} more" if len(dispatches) > 10 else ""
        logger.warning("job %s%s: accepted, but the message could not be sent", job_ids, more, exc_info=True)
        return False
    return True


def _publish(app: Celery, dispatches: Sequence[Dispatch]) -> None:
    on_redis = is_on_redis(app)
    with app.producer_or_acquire() as producer, producer.batch(BATCH_COMMANDS):
        for dispatch in dispatches:
            name = celery_task_name(dispatch.task_type)
            # What `send_task` does for a task with a queue of its own, without a result object for each.
            message = app.amqp.create_task_message(
                celery_task_id(dispatch.job_id, dispatch.retries),
                name,
                (dispatch.job_id, dispatch.sequence),
                create_sent_event=app.conf.task_send_sent_event,
                ignore_result=True,
                # What Flower shows: no whole paths, no parameters that may be secret.
                argsrepr=repr((dispatch.task_type, *dispatch.file_names[:3]))[:200],
                kwargsrepr="{}",
            )
            app.amqp.send_task_message(
                producer,
                name,
                message,
                queue=job_queue(app, dispatch.task_type),
                # On Redis a queue is there when something is in it.
                declare=[] if on_redis else None,
                priority=message_priority(app, dispatch.priority),
                serializer="json",
                # On RabbitMQ: how long its confirmation is waited for.
                confirm_timeout=CONFIRM_SECONDS,
            )
