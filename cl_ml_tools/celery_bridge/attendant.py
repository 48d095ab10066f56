"""The thread of a worker's main process that settles runs that ended badly, and recovers jobs."""

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import cast

from cl_ml_tools.celery_bridge.installation import Installation
from cl_ml_tools.celery_bridge.queues import celery_task_id
from cl_ml_tools.celery_bridge.spool import OutcomeSpool
from cl_ml_tools.common.job_leases import Finished, Owner, RequeueCause, RequeueState
from cl_ml_tools.errors import StoreUnavailableError
from cl_ml_tools.fork_gate import ForkGate
from cl_ml_tools.recovery import recover
from cl_ml_tools.sweep import SweptStorage, sweep

logger = logging.getLogger(__name__)

# The main process forks whenever a pool process has to be replaced.
_working = ForkGate()

RETRY_SECONDS = 1.0
"""Pause before the store is asked again after it did not answer."""


class Attendant:
    """Settles what the main process's own event loop must not wait for.

    Its methods may be called from any thread; all but `release` and `drain` return at once.
    """

    def __init__(self, installation: Installation, spool: OutcomeSpool) -> None:
        self._installation = installation
        self._spool = spool
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._pass: Iterator[int] | None = None
        self._thread = threading.Thread(target=self._loop, name="cl_ml_tools-attendant", daemon=True)

    def start(self) -> None:
        """Begin; once. It ends with the process."""
        self._thread.start()

    def crashed(self, job_id: str, process: int, detail: str, sequence: int) -> None:
        """The process that a job was delivered to has died: count it, and start the job again below the limit."""
        self._waiting.put(lambda: self._settle(job_id, process, RequeueCause.CRASHED, detail, sequence))

    def timed_out(self, job_id: str, process: int, time_limit: float) -> None:
        """The process that ran a job was killed at the job's time limit."""
        detail = f"stopped at its time limit of {time_limit:g} s"
        self._waiting.put(lambda: self._settle(job_id, process, RequeueCause.TIMED_OUT, detail))

    def revoked(self, job_id: str, task_id: str, process: int | None) -> None:
        """Somebody has revoked the Celery task (in Flower, say): that cancels the job."""

        def settle() -> None:
            job = self._installation.store.get(job_id)
            if job is None or task_id != celery_task_id(job_id, job.retries):
                # A late message of before a retry: the revoke was for that.
                return
            self._installation.store.cancel(job_id)
            if process is not None:
                self._settle(job_id, process, RequeueCause.CRASHED, "revoked")

        self._waiting.put(settle)

    def release(self, job_id: str, process: int) -> None:
        """Give a job back that this node's shutdown has stopped. Waits for the store, within its bound."""
        try:
            self._settle(job_id, process, RequeueCause.RELEASED, "")
        except StoreUnavailableError:
            logger.warning("job %s could not be given back; it is when its lease ends", job_id, exc_info=True)

    def drain(self, seconds: float) -> None:
        """Wait until all that was told so far is settled, or could not be, but not for longer than that."""
        done = threading.Event()
        self._waiting.put(done.set)
        done.wait(seconds)

    def _settle(self, job_id: str, process: int, cause: RequeueCause, detail: str, sequence: int = 0) -> None:
        installation = self._installation
        if (waiting := self._spool.get(job_id)) is not None:
            token, outcome = waiting
            if outcome is None:
                cause, detail = RequeueCause.RELEASED, ""
            else:
                finished = installation.store.finish(job_id, token=token, outcome=outcome)
                if finished is not Finished.LOST:
                    logger.warning(
                        "job %s was %s, and had its outcome ready: %s", job_id, cause, outcome.status
                    )
                    self._spool.remove(job_id)
                    if finished is Finished.DELETED:
                        installation.clean_up(job_id)
                    return
        requeued = installation.store.requeue(
            job_id,
            owner=Owner(installation.node, process),
            cause=cause,
            detail=detail,
            sequence=sequence,
        )
        self._spool.remove(job_id)
        if requeued.state is RequeueState.LOST:
            # It had finished, or was not claimed yet.
            return
        if requeued.state is RequeueState.CANCELLED:
            logger.info("job %s: its run in process %d has ended; it is cancelled", job_id, process)
            return
        logger.warning(
            "job %s: its run in process %d was %s; it is %s", job_id, process, cause, requeued.state
        )
        if requeued.dispatch is not None:
            installation.repository.send(requeued.dispatch)
        elif requeued.state is RequeueState.DELETED:
            installation.clean_up(job_id)

    def _loop(self) -> None:
        interval = self._installation.settings.recovery_interval_seconds
        next_recovery = time.monotonic() + interval * random.random()  # noqa: S311 - spreads load
        while True:
            try:
                settle = self._waiting.get(timeout=max(0.0, next_recovery - time.monotonic()))
            except queue.Empty:
                settle = None
            try:
                if settle is not None:
                    with _working:
                        settle()
                else:
                    next_recovery = time.monotonic() + interval * random.uniform(0.8, 1.2)  # noqa: S311
                    self._recover()
                    self._sweep()
            except StoreUnavailableError as error:
                logger.warning("the attendant cannot reach the record, trying again: %s", error)
                if settle is not None:
                    self._waiting.put(settle)
                time.sleep(RETRY_SECONDS)
            except Exception:  # the thread must outlive any fault: all that follows depends on it
                logger.exception("the attendant failed")
                time.sleep(RETRY_SECONDS)

    def _sweep(self) -> None:
        """One step of a pass over the storage; one node of all begins a pass each hour."""
        installation = self._installation
        if self._pass is None:
            storage = cast("object", installation.storage)
            if isinstance(storage, SweptStorage) and installation.store.claim_turn("sweep", 3600):
                self._pass = sweep(storage, installation.store, during=_working)
            return
        try:
            next(self._pass)
        except BaseException as end:
            self._pass = None
            if not isinstance(end, StopIteration):
                raise

    def _recover(self) -> None:
        installation = self._installation
        done = recover(
            installation.recovery,
            installation.repository.send,
            installation.clean_up,
            during=_working,
        )
        if done:
            logger.warning(
                "recovery: %s", ", ".join(f"{count} {word}" for word, count in sorted(done.items()))
            )
