"""Keeps the leases of a worker's running jobs from its main process, and requeues what has crashed there."""

import logging
import os
import queue
import secrets
import threading
import time
from typing import Any

from celery import bootsteps
from celery.worker import state as worker_state

from cl_ml_tools.celery_bridge.installation import NODE_VARIABLE, Installation, installations
from cl_ml_tools.celery_bridge.request import JobRequest
from cl_ml_tools.common.job_leases import Owner, RequeueCause
from cl_ml_tools.errors import StoreUnavailableError
from cl_ml_tools.fork_gate import ForkGate

logger = logging.getLogger(__name__)

# The main process forks whenever a pool process has to be replaced.
_working = ForkGate()

RETRY_SECONDS = 1.0
"""Pause before the store is asked again after it did not answer."""


class Keeper:
    """A daemon thread of a worker's main process.

    In the main process, because a plugin may hold the GIL of its pool process for as long as it likes. A
    thread, because the main process's own loop must not wait for Redis (and stands still on the solo pool).
    It is never told to stop: jobs still run during a warm shutdown, and it ends with the process.
    """

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._crashes: queue.SimpleQueue[tuple[str, int, str]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="cl_ml_tools-keeper", daemon=True)

    def start(self) -> None:
        """Begin; once."""
        self._thread.start()

    def crashed(self, job_id: str, process: int, detail: str) -> None:
        """Note that the process running a job has died; from any thread, without waiting for Redis."""
        self._crashes.put((job_id, process, detail))

    def extend_running(self) -> None:
        """Extend the leases of all jobs that run in this node's pool.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        runs = [(request.job_id, None) for request in _running_requests()]
        self._installation.store.extend(
            self._installation.node, runs, lease_seconds=self._installation.settings.lease_seconds
        )

    def requeue_crashed(self, job_id: str, process: int, detail: str) -> None:
        """Count the crash, and send the job again unless it has reached its limit.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        installation = self._installation
        owner = Owner(installation.node, process)
        requeued = installation.store.requeue(job_id, owner=owner, cause=RequeueCause.CRASHED, detail=detail)
        logger.warning("job %s: its process %d died; the job is %s", job_id, process, requeued.state)
        if requeued.dispatch is not None:
            installation.repository.send(requeued.dispatch)

    def _loop(self) -> None:
        interval = self._installation.settings.lease_seconds / 3
        next_extend = time.monotonic() + interval
        while True:
            try:
                crash = self._crashes.get(timeout=max(0.0, next_extend - time.monotonic()))
            except queue.Empty:
                crash = None
            try:
                if crash is not None:
                    with _working:
                        self.requeue_crashed(*crash)
                    crash = None
                if time.monotonic() >= next_extend:
                    next_extend = time.monotonic() + interval
                    with _working:
                        self.extend_running()
            except StoreUnavailableError as error:
                logger.warning("the keeper cannot reach the record, trying again: %s", error)
                if crash is not None:
                    self._crashes.put(crash)
                next_extend = min(next_extend, time.monotonic() + RETRY_SECONDS)
                time.sleep(RETRY_SECONDS)
            except Exception:  # the thread must outlive any fault, or the leases end under running jobs
                logger.exception("the keeper failed%s", f" at job {crash[0]}" if crash else "")
                time.sleep(RETRY_SECONDS)


def _running_requests() -> list[JobRequest]:
    """The deliveries that the pool runs now; refused duplicates may be among them, harmlessly."""
    while True:
        try:
            active = list(worker_state.active_requests)
        except RuntimeError:  # another thread changed the set meanwhile
            continue
        return [request for request in active if isinstance(request, JobRequest)]


class KeeperStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Gives the worker its node id before its pool starts, and starts the keeper."""

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._installation = installations[parent.app]
        os.environ[NODE_VARIABLE] = f"{parent.hostname}:{os.getpid()}:{secrets.token_hex(4)}"

    def start(self, parent: Any) -> None:
        """Check that the record belongs to this broker, then keep leases.

        Raises:
            StoreMismatchError: it belongs to another; the worker does not start.
        """
        installation = self._installation
        try:
            installation.repository.check_broker()
        except StoreUnavailableError as error:
            logger.warning("starting although the record cannot be reached: %s", error)
        installation.keeper = Keeper(installation)
        installation.keeper.start()

    def stop(self, parent: Any) -> None:
        """Nothing: called at the beginning of a warm shutdown, while jobs still run."""
