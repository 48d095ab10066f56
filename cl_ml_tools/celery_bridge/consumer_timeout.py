"""Warns where RabbitMQ would take long jobs' messages back, because it does not know our queues' own limit."""

import logging
import re
from typing import Any

from celery import bootsteps

logger = logging.getLogger(__name__)

# https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout: the queue argument came with 3.12 and 3.11.15.
_KNOWS_QUEUE_ARGUMENT = (3, 11, 15)
# The server's own timeout came with this release.
_HAS_TIMEOUT = (3, 8, 15)


def lacks_queue_timeout(server: dict[str, Any]) -> bool:
    """Whether a server with these properties ends long runs' connections whatever the queue says."""
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", str(server.get("version", "")))
    if server.get("product") != "RabbitMQ" or numbers is None:
        return False
    version = tuple(int(number) for number in numbers.groups())
    return _HAS_TIMEOUT <= version < _KNOWS_QUEUE_ARGUMENT


class ConsumerTimeoutStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Looks at the server each time that the worker has connected to its broker."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, consumer: Any) -> None:
        """Warn, or say nothing."""
        server = getattr(consumer.connection.connection, "server_properties", None) or {}
        if lacks_queue_timeout(server):
            logger.warning(
                "RabbitMQ %s closes the connection of a worker whose job runs for longer than consumer_timeout "
                "(30 minutes unless set), and does not know x-consumer-timeout of a queue. The job goes on and is "
                "not started twice, but the worker has to connect anew each time. Set consumer_timeout in "
                "rabbitmq.conf above your longest job, or use RabbitMQ 3.11.15 or newer.",
                server["version"],
            )
