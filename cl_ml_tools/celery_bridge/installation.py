"""What is installed on which Celery app, in this process."""

import os
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from celery import Celery

from cl_ml_tools.celery_bridge.repository import CeleryJobRepository
from cl_ml_tools.settings import Settings
from cl_ml_tools.stores.redis_jobs import RedisJobStore

if TYPE_CHECKING:
    from cl_ml_tools.celery_bridge.keeper import Keeper

NODE_VARIABLE = "_CL_ML_TOOLS_NODE"
"""Carries the node's id from a worker's main process to its pool processes, forked or spawned."""


@dataclass(eq=False, slots=True, weakref_slot=True)
class Installation:
    """The package on one app.

    Attributes:
        store: the record of its jobs.
        repository: what submits to it.
        settings: leases and progress.
        consume: whether workers take the queues of their task types without being asked by ``-Q``.
        keeper: in a worker's main process, who keeps the leases.
    """

    store: RedisJobStore
    repository: CeleryJobRepository
    settings: Settings
    consume: bool
    keeper: "Keeper | None" = field(default=None)

    @property
    def node(self) -> str:
        """The id of this worker's start."""
        return os.environ[NODE_VARIABLE]


installations: "weakref.WeakKeyDictionary[Celery, Installation]" = weakref.WeakKeyDictionary()
