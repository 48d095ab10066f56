"""Celery's configuration for an app of ours. On somebody else's app none of it is set."""

from typing import Any

from cl_ml_tools.broker_urls import broker_url_for
from cl_ml_tools.settings import Settings

# Longer than most jobs run: a longer one is delivered again, and that delivery is refused. Recovery is what brings
# a job back.
VISIBILITY_TIMEOUT_SECONDS = 12 * 3600


def celery_configuration(settings: Settings) -> dict[str, Any]:
    """The configuration as a dict, each value with its reason."""
    timeout_seconds = settings.redis_timeout_seconds
    broker_url = settings.broker_url or broker_url_for(settings.redis_url)
    on_amqp = broker_url.startswith(("amqp", "pyamqp"))
    redis_options = {
        "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,
        # One list for each of the ten levels that kombu has on Redis.
        "priority_steps": list(range(10)),
        # A hung server must not hang whoever publishes; idle workers do not mind.
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        "socket_keepalive": True,
        # Finds half-open connections.
        "health_check_interval": 25,
        "client_name": "cl_ml_tools",
    }
    amqp_options = {
        # Without confirms a message that RabbitMQ refuses is lost in silence.
        "confirm_publish": True,
        # As above: a hung server. A consumer that waits for messages is not bound by them.
        "read_timeout": timeout_seconds,
        "write_timeout": timeout_seconds,
    }
    return {
        "broker_url": broker_url,
        "broker_transport_options": amqp_options if on_amqp else redis_options,
        # Ours alone: a queue named `celery` may be shared with strangers.
        "task_default_queue": "cl_ml_tools",
        # Never pickle: a message must not be able to run code.
        "task_serializer": "json",
        "accept_content": ["json"],
        "event_serializer": "json",
        # The record is the result.
        "result_backend": None,
        "task_ignore_result": True,
        # A message is acknowledged when the job's outcome is stored, whatever it is.
        "task_acks_late": True,
        "task_acks_on_failure": True,
        "task_acks_on_timeout": True,
        "task_reject_on_worker_lost": False,
        # Nobody holds messages that it does not run: strict priorities, fair sharing.
        "worker_prefetch_multiplier": 1,
        # Outlive the broker, at start and later, for as long as it takes.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # On Redis such an error is any reply that refuses: it is full, or was made a replica.
        "broker_channel_error_retry": True,
        # Bounds how long a submission waits for a broker: (max_retries + 2) x the socket's timeout.
        "broker_connection_timeout": timeout_seconds,
        "broker_pool_acquire_timeout": 5,
        "task_publish_retry_policy": {
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.1,
            "interval_max": 0.2,
        },
        # How long a dead pool process's result is waited for. Too short does no harm: a job that did finish
        # is not started again, its record says so.
        "worker_lost_wait": 1.0,
        # What Flower shows.
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        # A spawned pool process loads its plugins before it reports; Celery's 4 s would kill it for ever.
        "worker_proc_alive_timeout": 60,
    }
