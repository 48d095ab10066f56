"""The Celery task that wraps a `ComputeModule`.

Loading this module loads every installed task, and registers it with the apps that the package is installed
on. It stands in the apps' ``include``, so that workers load it and nobody else does.
"""

import logging
import os
import secrets
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore

from cl_ml_tools.celery_bridge.installation import Installation, installations
from cl_ml_tools.celery_bridge.queues import celery_task_name
from cl_ml_tools.common.compute_module import ComputeModule
from cl_ml_tools.common.job_leases import Owner, Refusal
from cl_ml_tools.execution import Execution, LeasedRun, run_on_thread_loop
from cl_ml_tools.registry import load_tasks

logger = logging.getLogger(__name__)


class JobTask(Task):  # type: ignore[misc]  # Celery has no types
    """Runs jobs of one task type.

    Attributes:
        compute_module: what does them.
        installation: the store and the settings.
    """

    abstract = True
    Request = "cl_ml_tools.celery_bridge.request:JobRequest"

    # Given here, not left to the app's configuration: the guarantees rest on them.
    acks_late = True  # a message is acknowledged when the outcome is stored
    acks_on_failure = True  # the record decides about another try, not the broker
    acks_on_timeout = True
    reject_on_worker_lost = False  # would requeue without a signal and without bound
    ignore_result = True  # the record is the result

    compute_module: ComputeModule
    installation: Installation


def run_job(self: JobTask, job_id: str, sequence: int) -> str:
    """Claim the job, run it and store its outcome; returns the status that was stored.

    Raises:
        Ignore: the claim is refused, or was lost; recovery brings a job back, not the broker.
    """
    installation = self.installation
    store = installation.store
    settings = installation.settings
    claim = store.claim(
        job_id,
        token=secrets.token_hex(8),
        owner=Owner(installation.node, os.getpid()),
        sequence=sequence,
        lease_seconds=settings.lease_seconds,
    )
    if isinstance(claim, Refusal):
        logger.info("job %s is not started: %s", job_id, claim)
        raise Ignore
    monitored = LeasedRun(
        store,
        job_id=job_id,
        token=claim.token,
        node=installation.node,
        lease_seconds=settings.lease_seconds,
        progress_interval_seconds=settings.progress_interval_seconds,
    )
    with Execution(self.compute_module, claim, store, monitored) as execution:
        outcome = run_on_thread_loop(execution.run())
        if outcome is None:
            raise Ignore
        execution.finish(outcome)
    return str(outcome.status)


def register_tasks(app: Celery, installation: Installation) -> None:
    """Register a Celery task for every installed task type.

    Raises:
        PluginLoadError: a plugin cannot be loaded.
    """
    for task_type, module in load_tasks().items():
        options: dict[str, Any] = {"compute_module": module, "installation": installation}
        app.task(
            run_job,
            name=celery_task_name(task_type),
            base=JobTask,
            bind=True,
            # Not on every app of the process.
            shared=False,
            # A lazy one turns into a shared task in spawned pool processes.
            lazy=False,
            **options,
        )


for _app, _installation in list(installations.items()):
    register_tasks(_app, _installation)
