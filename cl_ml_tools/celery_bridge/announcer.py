"""The thread of a worker's main process that says which jobs the node takes."""

import logging
import threading
import time
from typing import Any

from cl_ml_tools.celery_bridge.installation import Installation
from cl_ml_tools.celery_bridge.queues import queue_name
from cl_ml_tools.common.job_control import SERVING_SECONDS
from cl_ml_tools.errors import StoreUnavailableError
from cl_ml_tools.fork_gate import ForkGate

logger = logging.getLogger(__name__)

# The main process forks whenever a pool process has to be replaced.
_working = ForkGate()

LOOK_SECONDS = 1.0
"""How often it looks whether what the node consumes has changed."""


class Announcer:
    """Says what the node's consumer really consumes: a worker that lives, but takes nothing, says so.

    It ends with the process; what was said ends by itself soon after.

    Args:
        installation: whose repository is told.
        worker: Celery's worker controller.
    """

    def __init__(self, installation: Installation, worker: Any) -> None:
        self._installation, self._worker = installation, worker
        self._thread = threading.Thread(target=self._loop, name="cl_ml_tools-announcer", daemon=True)

    def start(self) -> None:
        """Begin; once."""
        self._thread.start()

    def consumed(self) -> list[str]:
        """The task types whose queues the node consumes at this moment; none without a connection to the broker."""
        # Celery sets it anew with each connection.
        consumer = getattr(getattr(self._worker, "consumer", None), "task_consumer", None)
        if consumer is None:
            return []
        return [name for name in self._installation.task_types if consumer.consuming_from(queue_name(name))]

    def _loop(self) -> None:
        said: list[str] = []
        say_again_at = 0.0
        while True:
            try:
                consumed = self.consumed()
                if consumed != said or time.monotonic() >= say_again_at:
                    with _working:
                        self._installation.repository.announce(self._installation.node, consumed)
                    said, say_again_at = consumed, time.monotonic() + SERVING_SECONDS / 3
            except StoreUnavailableError as error:
                logger.debug("cannot say what this node serves, trying again: %s", error)
            except Exception:  # the thread must outlive any fault, or the node counts as gone
                logger.exception("the announcer failed")
            time.sleep(LOOK_SECONDS)
