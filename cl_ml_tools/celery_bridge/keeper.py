"""The thread of a worker's main process that keeps the leases of the node's running jobs."""

import logging
import math
import os
import threading
import time
from weakref import WeakSet

from celery.worker import state as worker_state

from cl_ml_tools.celery_bridge.ending import Ending
from cl_ml_tools.celery_bridge.installation import Installation
from cl_ml_tools.celery_bridge.queues import job_id_of
from cl_ml_tools.celery_bridge.request import JobRequest
from cl_ml_tools.common.job_leases import RunState
from cl_ml_tools.errors import StoreUnavailableError
from cl_ml_tools.fork_gate import ForkGate

logger = logging.getLogger(__name__)

# The main process forks whenever a pool process has to be replaced.
_working = ForkGate()

CELERY_KEEPS_SECONDS = 60.0
"""Longer hard limits are not told to Celery: its timer for a job stays in memory until it would be due, however soon
the job was done (`kombu.asynchronous.timer`). With six hours each job took half a kilobyte for so long."""

LOOK_SECONDS = 1.0
"""How often it looks for runs that are over their hard limit."""

ENDING_SECONDS = 0.2
"""How often it looks after processes that were told to end."""

OVERDUE_SECONDS = 5.0
"""How long after a hard limit that Celery keeps a run is ended here. Celery does it sooner, unless its event loop
stands still: it does for as long as the broker is away."""

RETRY_SECONDS = 1.0
"""Pause before the store is asked again after it did not answer."""


class Keeper:
    """Extends leases every third of them, and ends runs that do not end themselves, until the process ends.

    In the main process, because a plugin may hold the GIL of its pool process for as long as it likes. A
    thread, because the main process's own loop must not wait for Redis (and stands still on the solo pool).
    It is never told to stop: jobs still run during a warm shutdown.
    """

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        # By the object: another request may get the address of one that has ended.
        self._held: WeakSet[JobRequest] = WeakSet()
        self._revoked: set[str] = set()
        self._stop_since: dict[JobRequest, float] = {}
        self._endings: dict[JobRequest, Ending] = {}
        self._thread = threading.Thread(target=self._loop, name="cl_ml_tools-keeper", daemon=True)

    def start(self) -> None:
        """Begin; once."""
        self._thread.start()

    def extend_running(self) -> None:
        """Extend the leases of all jobs that run in this node's pool, and end runs that do not stop.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        installation = self._installation
        requests = _running_requests()
        self._tell_of_revokes()
        states = installation.store.extend(
            installation.node,
            [(request.job_id, None) for request in requests],
            lease_seconds=installation.settings.lease_seconds,
        )
        for request in set(self._stop_since) - set(requests):
            del self._stop_since[request]
        for request, state in zip(requests, states, strict=True):
            if state is RunState.CURRENT:
                self._held.add(request)
            elif state is RunState.STOPPING or (state is RunState.LOST and request in self._held):
                self._end_when_stubborn(request, state)

    def end_overdue(self) -> None:
        """End the pool processes of runs that are over their hard time limit, and have the record say so."""
        attendant = self._installation.attendant
        requests = _running_requests()
        for request in requests:
            limit, begin, process = request.hard_time_limit, request.accepted_at, request.worker_pid
            # On the threads and solo pools the run watches its limit itself, in this very process.
            if begin is None or process in (None, os.getpid()) or attendant is None:
                continue
            patience = OVERDUE_SECONDS if request.has_limit_of_celery else 0.0
            if time.monotonic() - begin < limit + patience or request in self._endings:
                continue
            logger.warning(
                "job %s is over its time limit of %g s: ending process %d", request.job_id, limit, process
            )
            attendant.timed_out(request.job_id, process, limit)
            self._begin_ending(request, process)

    def go_on_ending(self) -> None:
        """Kill the processes that were told to end and did not, and what the others have left behind."""
        running = set(_running_requests()) if self._endings else set()
        for request, ending in list(self._endings.items()):
            if request in running:
                ending.go_on()
            else:
                ending.finish()
                del self._endings[request]

    def _tell_of_revokes(self) -> None:
        """Have jobs cancelled whose Celery task was revoked.

        Celery itself stops only what it is told to terminate, only on prefork, and not when a refused duplicate
        has made it forget the run. Of a task that waits it remembers the revoke for as long as the worker lives.
        """
        attendant = self._installation.attendant
        if attendant is None:
            return
        revoked = set(worker_state.revoked)
        for task_id in revoked - self._revoked:
            # Another task of the app's names no job.
            attendant.revoked(job_id_of(task_id), task_id, None)
        self._revoked = revoked

    def _end_when_stubborn(self, request: JobRequest, state: RunState) -> None:
        """End the pool process of a run that goes on although it was told to stop."""
        now = time.monotonic()
        since = self._stop_since.setdefault(request, now)
        process = request.worker_pid
        # On the threads and solo pools the run is in this very process.
        if process in (None, os.getpid()) or now - since < self._installation.settings.cancel_grace_seconds:
            return
        if request not in self._endings:
            logger.warning(
                "job %s is told to stop (%s) and goes on: ending process %d", request.job_id, state, process
            )
            self._begin_ending(request, process)

    def _begin_ending(self, request: JobRequest, process: int) -> None:
        if request not in worker_state.active_requests:
            # It has ended since; the process may have the next job already.
            return
        self._endings[request] = Ending(process)
        self._endings[request].begin()

    def _loop(self) -> None:
        interval = self._installation.settings.lease_seconds / 3
        extend_at = time.monotonic() + interval
        while True:
            try:
                extend_at = min(extend_at, time.monotonic() + self._pause_to_next_end())
                pause = ENDING_SECONDS if self._endings else LOOK_SECONDS
                time.sleep(max(0.0, min(pause, extend_at - time.monotonic())))
                with _working:
                    self.go_on_ending()
                    self.end_overdue()
                    if time.monotonic() < extend_at:
                        continue
                    self.extend_running()
            except StoreUnavailableError as error:
                logger.warning("the keeper cannot reach the record, trying again: %s", error)
                extend_at = time.monotonic() + RETRY_SECONDS
            except Exception:  # the thread must outlive any fault, or the leases end under running jobs
                logger.exception("the keeper failed")
                time.sleep(RETRY_SECONDS)
                extend_at = time.monotonic() + RETRY_SECONDS
            else:
                extend_at = time.monotonic() + interval

    def _pause_to_next_end(self) -> float:
        waiting = [since for request, since in self._stop_since.items() if request not in self._endings]
        grace = self._installation.settings.cancel_grace_seconds
        return max(0.1, min(waiting, default=math.inf) + grace - time.monotonic())


def _running_requests() -> list[JobRequest]:
    """The deliveries that the pool runs now; refused duplicates may be among them, harmlessly."""
    while True:
        try:
            active = list(worker_state.active_requests)
        except RuntimeError:  # another thread changed the set meanwhile
            continue
        return [request for request in active if isinstance(request, JobRequest)]
