"""The Celery task that wraps a `ComputeModule`.

Loading this module loads every installed task, and registers it with the apps that the package is installed
on. It stands in the apps' ``include``, so that workers load it and nobody else does.
"""

import logging
import os
import secrets
import time
from collections.abc import Callable
from typing import Any, TypeVar

from billiard.common import terminate_handler_fired
from celery import Celery, Task
from celery.exceptions import Ignore, SoftTimeLimitExceeded

from cl_ml_tools.celery_bridge import keeper
from cl_ml_tools.celery_bridge.installation import Installation, installations
from cl_ml_tools.celery_bridge.queues import celery_task_name
from cl_ml_tools.celery_bridge.spawned import adopt_copies
from cl_ml_tools.celery_bridge.spool import OutcomeSpool
from cl_ml_tools.common.compute_module import ComputeModule
from cl_ml_tools.common.job_leases import Claim, Finished, Outcome, Owner, Refusal, Requeued, RequeueState
from cl_ml_tools.common.schemas import Job, JobStatus
from cl_ml_tools.errors import StorageMismatchError, StorageUnusableError, StoreUnavailableError
from cl_ml_tools.execution import (
    Execution,
    LeasedRun,
    RetryLater,
    TimeLimits,
    finish,
    give_back,
    lease_clock,
    limits_of,
    patiently,
    retry_later,
    run_on_thread_loop,
)
from cl_ml_tools.registry import load_tasks
from cl_ml_tools.storage_tie import check_storage

logger = logging.getLogger(__name__)

T = TypeVar("T")

HOLD_SECONDS = 10.0
"""How long a node without the storage keeps a job that it cannot do."""


class JobTask(Task):  # type: ignore[misc]  # Celery has no types
    """Runs jobs of one task type.

    Attributes:
        compute_module: what does them.
        installation: the store and the settings.
        longest_run: the hard limit in seconds, also where Celery's ``time_limit`` is not set.
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
    longest_run: float


def run_job(self: JobTask, job_id: str, sequence: int) -> str:
    """Claim the job, run it and store its outcome; returns how it ended.

    Raises:
        TypeError: the message is none of ours.
        Ignore: the claim is refused, or was lost; recovery brings a job back, not the broker.
    """
    if not isinstance(job_id, str) or not isinstance(sequence, int):
        raise TypeError("a job's message carries its id and its sequence number")
    installation = self.installation
    store, settings = installation.store, installation.settings
    owner = Owner(installation.node, os.getpid())
    token = secrets.token_hex(8)
    claimed_at = lease_clock()
    # Under one token: a claim that a hung server executes late is found again, not counted as lost.
    claim = _undisturbed(
        lambda: patiently(
            job_id,
            lambda: store.claim(
                job_id, token=token, owner=owner, sequence=sequence, lease_seconds=settings.lease_seconds
            ),
        )
    )
    if isinstance(claim, Refusal):
        logger.info("job %s is not started: %s", job_id, claim)
        raise Ignore
    # Only prefork keeps Celery's limits; there they reach a plugin that neither awaits nor reports, too.
    in_pool_process = _is_pool_process()
    # The task's, since annotations may have changed what the plugin and the settings say.
    limits = TimeLimits(
        self.soft_time_limit,
        self.time_limit or self.longest_run,
        soft_errors=(SoftTimeLimitExceeded,) if in_pool_process else (),
    )
    monitored = LeasedRun(
        store,
        job_id=job_id,
        token=token,
        owner=owner,
        claimed_at=claimed_at,
        lease_seconds=settings.lease_seconds,
        progress_interval_seconds=settings.progress_interval_seconds,
        time_limit=None if in_pool_process else limits.hard,
    )
    doubted: list[OutcomeSpool] = []

    def keep_doubt() -> None:
        doubted.append(OutcomeSpool.of_this_node())
        doubted[0].put(claim, None)

    with Execution(
        self.compute_module,
        claim,
        monitored,
        limits=limits,
        on_doubt=keep_doubt,
        is_process_ending=_is_process_ending,
        is_cancelled_by_others=False,
    ) as execution:
        ended = run_on_thread_loop(execution.run(), execution.interrupted)
        if doubted:
            doubted[0].remove(job_id)
        if ended is None:
            raise Ignore
        has_failed = isinstance(ended, RetryLater) or ended.status is JobStatus.ERROR
        if has_failed and (fault := _fault_of_storage(installation, claim.job)):
            logger.error("job %s: this node cannot do it, and gives it back. %s", job_id, fault)
            # Held for a while: a node that gave back at once would be the first to get every job.
            _undisturbed(lambda: time.sleep(HOLD_SECONDS))
            return _put_back(installation, job_id, lambda: give_back(claim, store, owner))
        if isinstance(ended, RetryLater):
            retry = ended
            return _put_back(installation, job_id, lambda: retry_later(claim, retry, store, owner))
        return _finish(installation, claim, ended, monitored)


def _put_back(installation: Installation, job_id: str, requeue: Callable[[], Requeued]) -> str:
    requeued = _undisturbed(requeue)
    if requeued.dispatch is not None:
        installation.repository.send(requeued.dispatch)
    elif requeued.state is RequeueState.DELETED:
        installation.clean_up(job_id)
    return str(requeued.state)


def _fault_of_storage(installation: Installation, job: Job) -> str:
    """Why the job cannot be done here, if that is so: then it has not failed for good."""
    try:
        check_storage(installation.storage, installation.store)
    except StorageUnusableError as error:
        return str(error)
    except StorageMismatchError as error:
        inputs = job.params.get("input_paths")
        if not isinstance(inputs, list) or all(os.path.exists(str(path)) for path in inputs):  # noqa: PTH110
            return ""
        return str(error)
    except StoreUnavailableError:
        # The outcome waits for the store.
        return ""
    return ""


def _finish(installation: Installation, claim: Claim, outcome: Outcome, monitored: LeasedRun) -> str:
    job_id = claim.job.job_id
    waited: list[OutcomeSpool] = []

    def keep() -> None:
        waited.append(OutcomeSpool.of_this_node())
        waited[0].put(claim, outcome)

    finished = _undisturbed(lambda: finish(claim, outcome, installation.store, monitored, keep))
    if waited:
        waited[0].remove(job_id)
    if finished is Finished.DELETED:
        installation.clean_up(job_id)
    if finished is not Finished.STORED:
        raise Ignore
    return str(outcome.status)


def _undisturbed(act: Callable[[], T]) -> T:
    """What ``act`` answers, done again when the soft time limit strikes in it: waiting for the store is not the job's
    fault. It must be safe to do twice."""
    while True:
        try:
            return act()
        except SoftTimeLimitExceeded:
            logger.info("the soft time limit passed while a job waited for the store")


def _is_process_ending(error: BaseException) -> bool:
    """Celery and billiard end a process by signals that raise ``SystemExit``; Ctrl-C is theirs, and raises nothing."""
    return isinstance(error, SystemExit) and terminate_handler_fired()


def _is_pool_process() -> bool:
    """Whether this is a process of a prefork pool, and not a worker's main process."""
    from billiard.process import current_process

    return type(current_process()).__name__ != "_MainProcess"


def register_tasks(app: Celery, installation: Installation) -> None:
    """Register a Celery task for every installed task type.

    Raises:
        PluginLoadError: a plugin cannot be loaded.
    """
    tasks = load_tasks()
    installation.task_types = sorted(tasks)
    for task_type, module in tasks.items():
        limits = limits_of(module, installation.settings)
        # One of the app's would stand in for none of the task's.
        is_celerys = limits.hard <= keeper.CELERY_KEEPS_SECONDS or app.conf.task_time_limit
        options: dict[str, Any] = {
            "compute_module": module,
            "installation": installation,
            "soft_time_limit": limits.soft,
            "time_limit": limits.hard if is_celerys else None,
            "longest_run": limits.hard,
        }
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


for _app, _installation in [*installations.items(), *adopt_copies(__name__)]:
    register_tasks(_app, _installation)
