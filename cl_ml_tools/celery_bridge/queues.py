"""One queue for each task type, and priorities 0 to 10 in the broker's own direction and levels."""

import weakref

from celery import Celery
from kombu.entity import Exchange, Queue
from kombu.transport import redis as kombu_redis

PREFIX = "cl_ml_tools."

HIGHEST_PRIORITY = 10

CONSUMER_TIMEOUT_MS = 7 * 24 * 3600 * 1000
"""How long RabbitMQ lets a job run before it takes the message back. One value everywhere: it is part of the
queue's declaration, which must be the same on every node, whatever its time limits are."""

# Kept, since both are asked for with each job.
_on_redis: "weakref.WeakKeyDictionary[Celery, bool]" = weakref.WeakKeyDictionary()
_queues: "weakref.WeakKeyDictionary[Celery, dict[str, Queue]]" = weakref.WeakKeyDictionary()


def celery_task_name(task_type: str) -> str:
    """The name of the Celery task that does jobs of this type."""
    return f"{PREFIX}{task_type}"


def celery_task_id(job_id: str, retries: int) -> str:
    """The Celery task's id of a job; another one after each retry, since workers discard ids once revoked."""
    return f"{job_id}.{retries}" if retries else job_id


def job_id_of(task_id: str) -> str:
    """The id of the job that a Celery task of ours is about; job ids have no dots."""
    return task_id.partition(".")[0]


def queue_name(task_type: str) -> str:
    """The name of the queue that carries jobs of this type."""
    return f"{PREFIX}{task_type}"


def is_on_redis(app: Celery) -> bool:
    """Whether the app's broker is kombu's Redis transport, plain or with Sentinel. Opens no connection."""
    if app not in _on_redis:
        # By class: other transports call their driver 'redis' too, and order priorities the other way round.
        _on_redis[app] = isinstance(app.connection_for_write().transport, kombu_redis.Transport)
    return _on_redis[app]


def broker_fingerprint(app: Celery) -> str:
    """What tells one broker from another: its kind, and its database or virtual host.

    Not its address: one server has many names, and master and workers need not use the same one.
    """
    connection = app.connection_for_write()
    kind = "redis" if is_on_redis(app) else str(connection.transport.driver_type)
    return f"{kind}:{str(connection.virtual_host or '0').strip('/') or '0'}"


def job_queue(app: Celery, task_type: str) -> Queue:
    """The queue of a task type, as both sides declare it."""
    queues = _queues.setdefault(app, {})
    if task_type not in queues:
        queues[task_type] = _make_queue(app, queue_name(task_type))
    return queues[task_type]


def _make_queue(app: Celery, name: str) -> Queue:
    # RabbitMQ orders a classic queue by priority only when it is declared with its highest one, and by default
    # closes the connection of a consumer that keeps a message for half an hour.
    arguments = (
        None
        if is_on_redis(app)
        else {"x-max-priority": HIGHEST_PRIORITY, "x-consumer-timeout": CONSUMER_TIMEOUT_MS}
    )
    return Queue(name, exchange=Exchange(name, type="direct"), routing_key=name, queue_arguments=arguments)


def message_priority(app: Celery, priority: int) -> int:
    """A job's priority (0 to 10, higher is more urgent) as the broker counts.

    RabbitMQ counts the same way. kombu's Redis transport has the levels 0 to 9 with 0 first, so that 10 and
    9 share its first level.
    """
    return max(0, 9 - priority) if is_on_redis(app) else priority
