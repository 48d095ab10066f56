"""Adds the package to a Celery app."""

import sys
from typing import Any

from celery import Celery
from celery.signals import celeryd_init, worker_shutdown

from cl_ml_tools.celery_bridge.bootsteps import JobsStep
from cl_ml_tools.celery_bridge.consumer_timeout import ConsumerTimeoutStep
from cl_ml_tools.celery_bridge.installation import Installation, installations
from cl_ml_tools.celery_bridge.queues import job_queue, queue_name
from cl_ml_tools.celery_bridge.repository import CeleryJobRepository
from cl_ml_tools.common.file_storage import FileStorage
from cl_ml_tools.settings import Settings
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.stores.redis_recovery import RedisRecovery

TASK_MODULE = "cl_ml_tools.celery_bridge.task"

SETTLE_SECONDS = 10.0
"""How long a worker that ends may wait for the store to take what became of its runs."""


def install(
    app: Celery,
    store: RedisJobStore,
    *,
    storage: FileStorage | None = None,
    settings: Settings | None = None,
    consume: bool = False,
) -> CeleryJobRepository:
    """Let the app's workers run jobs, and return the repository that submits to them.

    Sets nothing that concerns the app's other tasks. Call it in the module that makes the app, so that pool
    processes do it too.

    Args:
        app: any Celery app.
        store: the record of jobs.
        storage: where the jobs' files are; workers then remove the files of jobs that are deleted or have
            been kept long enough.
        settings: leases, limits and progress; from the environment unless given.
        consume: whether the app's workers take the queues of the task types installed on their node. With
            False they do so only for the queues that ``-Q`` names (``cl_ml_tools.<task_type>``).
    """
    repository = CeleryJobRepository(app, store)
    settings = settings or Settings.from_environment()
    recovery = RedisRecovery(
        store,
        lease_seconds=settings.lease_seconds,
        max_leases_lost=settings.max_leases_lost,
        lost_message_seconds=settings.lost_message_seconds,
        retention_days=settings.retention_days,
    )
    installation = Installation(store, repository, recovery, settings, storage, consume)
    installations[app] = installation
    app.steps["worker"].add(JobsStep)
    app.steps["consumer"].add(ConsumerTimeoutStep)
    if app.configured:
        _include_task_module(app)
    else:
        app.on_after_configure.connect(_include_when_configured, weak=False)
    celeryd_init.connect(_choose_queues, weak=False, dispatch_uid="cl_ml_tools.choose_queues")
    worker_shutdown.connect(_settle_what_is_left, weak=False, dispatch_uid="cl_ml_tools.settle_what_is_left")
    if TASK_MODULE in sys.modules:
        # Some other app's worker has loaded it in this process; it will not run again for this one.
        sys.modules[TASK_MODULE].register_tasks(app, installation)
    return repository


def _include_when_configured(sender: Celery, **_: Any) -> None:
    _include_task_module(sender)


def _include_task_module(app: Celery) -> None:
    included = tuple(app.conf.include or ())
    if TASK_MODULE not in included:
        app.conf.include = (*included, TASK_MODULE)


def _choose_queues(instance: Any, options: dict[str, Any] | None = None, **_: Any) -> None:
    """Before a worker starts: make its node's queues known, and consume them when that is wanted."""
    app = instance.app
    installation = installations.get(app)
    if installation is None:
        return
    asked = (options or {}).get("queues") or ()
    named = set(asked.split(",") if isinstance(asked, str) else asked)
    # Its tasks are loaded by now (`WorkController.__init__`).
    for task_type in installation.task_types:
        if installation.consume:
            app.amqp.queues.select_add(job_queue(app, task_type))
        elif queue_name(task_type) in named:
            app.amqp.queues.add(job_queue(app, task_type))


def _settle_what_is_left(sender: Any, **_: Any) -> None:
    """When a worker's pool has ended: let its attendant store what became of the last runs."""
    installation = installations.get(sender.app)
    if installation is not None and installation.attendant is not None:
        installation.attendant.drain(SETTLE_SECONDS)
