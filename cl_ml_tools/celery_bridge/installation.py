"""What is installed on which Celery app, in this process."""

import logging
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery import Celery

from cl_ml_tools.celery_bridge.handed_down import handed_down
from cl_ml_tools.celery_bridge.repository import CeleryJobRepository
from cl_ml_tools.common.file_storage import FileStorage
from cl_ml_tools.settings import Settings
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.stores.redis_recovery import RedisRecovery

if TYPE_CHECKING:
    from cl_ml_tools.celery_bridge.attendant import Attendant

logger = logging.getLogger(__name__)

NODE_VARIABLE = "_CL_ML_TOOLS_NODE"
"""Carries the node's id from a worker's main process to its pool processes, forked or spawned."""


@dataclass(eq=False, slots=True, weakref_slot=True)
class Installation:
    """The package on one app.

    Attributes:
        store: the record of its jobs.
        repository: what submits to it.
        recovery: finds its jobs that nobody looks after.
        settings: leases, limits and progress.
        storage: where the jobs' files are, or None when workers do not remove any.
        consume: whether workers take the queues of their task types without being asked by ``-Q``.
        attendant: in a worker's main process, who settles runs that ended badly.
        task_types: what is registered as tasks; empty where tasks are not loaded.
    """

    store: RedisJobStore
    repository: CeleryJobRepository
    recovery: RedisRecovery
    settings: Settings
    storage: FileStorage | None
    consume: bool
    attendant: "Attendant | None" = field(default=None)
    task_types: list[str] = field(default_factory=list)

    @property
    def node(self) -> str:
        """The id of this worker's start."""
        return handed_down(NODE_VARIABLE)

    def clean_up(self, job_id: str) -> None:
        """Remove the files of a job whose record is gone; a failure is logged, the sweep takes them later."""
        if self.storage is None:
            return
        try:
            self.storage.cleanup_job(job_id)
        except OSError:
            logger.exception("job %s: its files could not be removed", job_id)


installations: "weakref.WeakKeyDictionary[Celery, Installation]" = weakref.WeakKeyDictionary()
