"""The repository of jobs that stores each one in Redis and sends it as a Celery message."""

import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from celery import Celery

from cl_ml_tools.celery_bridge import polling
from cl_ml_tools.celery_bridge.queues import broker_fingerprint
from cl_ml_tools.celery_bridge.sending import send
from cl_ml_tools.common.job_control import (
    SERVING_SECONDS,
    JobPage,
    JobQuery,
    Removal,
    Service,
    Submission,
)
from cl_ml_tools.common.job_leases import (
    CancelAnswer,
    Claim,
    Dispatch,
    Finished,
    JobLeases,
    Outcome,
    Owner,
    RequeueCause,
    RequeueState,
    RunState,
)
from cl_ml_tools.common.schemas import Job, JobRecord, JobStatus
from cl_ml_tools.errors import DuplicateJobError, InvalidJobError, RepeatedSubmissionError
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.stores.redis_search import find_jobs

BARE_LEASE_SECONDS = 3600.0
"""The lease of a job taken by `fetch_next_job`, whose caller keeps no heartbeat; each update renews it."""

BROKER_SECONDS = 2.0
"""How long the broker is given to answer that it is there."""

_UPDATABLE = frozenset({"status", "progress", "task_output", "error_message"})


@dataclass(slots=True)
class _HeldJob:
    """A claim of a bare caller, and what it has said that is stored with the outcome only."""

    claim: Claim
    said: dict[str, Any] = field(default_factory=dict)


class CeleryJobRepository:
    """A `cl_ml_tools.JobRepository` whose jobs are run by Celery workers, and by who polls beside them.

    Safe to share between threads. Every method raises `cl_ml_tools.errors.StoreUnavailableError` when Redis
    does not answer within its bound.

    Args:
        app: the Celery app that sends.
        store: the record of jobs.

    Attributes:
        store: the same.
    """

    def __init__(self, app: Celery, store: RedisJobStore) -> None:
        self._app = app
        self.store = store
        self._owner = Owner(f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}", os.getpid())
        self._held: dict[str, _HeldJob] = {}
        self._announced: dict[str, tuple[float, set[str]]] = {}

    @property
    def leases(self) -> JobLeases:
        """Where claims are kept: the store."""
        return self.store

    def add_job(
        self,
        job: Job,
        created_by: str | None = None,
        priority: int | None = None,
        *,
        not_before: datetime | None = None,
        expires: datetime | None = None,
    ) -> str:
        """Store the job, then send its message; returns its id.

        Once stored it is accepted: a broker that is away only delays it.

        Args:
            job: what is to be done; its id must be new.
            created_by: whose job it is.
            priority: 0 to 10, higher is more urgent; None means 5.
            not_before: when it may start at the earliest.
            expires: when it ends in ``cancelled`` if it has not started.

        Raises:
            InvalidJobError: the job cannot be stored as it is.
            InvalidJobIdError: its id is not a plain id.
            DuplicateJobError: there is a job with this id.
        """
        dispatch = self.store.add(
            job, created_by=created_by, priority=priority, not_before=not_before, expires=expires
        )
        if dispatch.sequence:
            self.send(dispatch)
        return job.job_id

    def add_jobs(
        self, jobs: Sequence[Job], created_by: str | None = None, priority: int | None = None
    ) -> list[str]:
        """Store many jobs, then send their messages, in a few round trips; returns their ids in order.

        Each is accepted by itself. All are checked before the first is stored; when an error is raised after
        that, some may be stored, and those are run. To be sure, add all of them again under the same ids.

        Args:
            jobs: what is to be done; their ids must be new.
            created_by: whose jobs they are.
            priority: 0 to 10, higher is more urgent; None means 5.

        Raises:
            InvalidJobError: a job cannot be stored as it is, or an id is there twice; nothing is stored.
            InvalidJobIdError: an id is not a plain id; nothing is stored.
            DuplicateJobError: there are jobs with some of the ids (its ``job_ids``); all others are accepted.
        """
        accepted: set[str] = set()
        for dispatches in self.store.add_all(jobs, created_by=created_by, priority=priority):
            # Before the next are stored: should that fail, these wait for nobody.
            send(self._app, dispatches)
            accepted.update(dispatch.job_id for dispatch in dispatches)
        if len(accepted) < len(jobs):
            known = [job.job_id for job in jobs if job.job_id not in accepted]
            named = f"{', '.join(map(repr, known[:10]))}{' and more' if known[10:] else ''}"
            raise DuplicateJobError(f"there are jobs with the ids {named} already", known)
        return [job.job_id for job in jobs]

    def add_job_once(
        self, job: Job, submission: Submission, created_by: str | None = None, priority: int | None = None
    ) -> str:
        """See `cl_ml_tools.common.job_control.AddsJobsOnce.add_job_once`."""
        try:
            dispatch = self.store.add(job, created_by=created_by, priority=priority, submission=submission)
        except RepeatedSubmissionError as repeated:
            return repeated.job_id
        self.send(dispatch)
        return job.job_id

    def count_unfinished(self, created_by: str) -> int:
        """See `cl_ml_tools.common.job_control.CountsUnfinishedJobs.count_unfinished`."""
        return int(self.store.scripts.run("count_unfinished", created_by))

    def announce(self, node: str, task_types: Sequence[str]) -> None:
        """Say that a node takes the jobs of these types; it holds for `SERVING_SECONDS`."""
        self.store.scripts.run("announce", node, int(SERVING_SECONDS * 1000), *task_types)

    def service(self) -> Service:
        """See `cl_ml_tools.common.job_control.TellsService.service`."""
        oldest_ms, *serving = self.store.scripts.run("service")
        workers = Counter(member.partition(" ")[2] for member in serving)
        return Service(dict(workers), int(oldest_ms) / 1000 if oldest_ms else None)

    def check_takes_jobs(self) -> None:
        """See `cl_ml_tools.common.job_control.TellsService.check_takes_jobs`."""
        self.store.check_takes_jobs()

    def reach_broker(self) -> None:
        """See `cl_ml_tools.common.job_control.TellsService.reach_broker`."""
        with self._app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_SECONDS)
            connection.default_channel.close()

    def get_job(self, job_id: str) -> JobRecord | None:
        """The job with all that is known of it, or None."""
        return self.store.get(job_id)

    def find_jobs(self, query: JobQuery) -> JobPage:
        """See `cl_ml_tools.common.job_control.FindsJobs.find_jobs`."""
        return find_jobs(self.store.scripts, query)

    def fetch_next_job(self, task_types: list[str]) -> JobRecord | None:
        """Claim the most urgent queued job of these types, from the queues that Celery workers consume too.

        The claim is this repository object's: with `update_job` it reports progress and stores the outcome.
        Its lease is an hour, renewed by each update; a job whose caller says nothing for longer is lost.

        Raises:
            kombu.exceptions.OperationalError: the broker cannot be reached.
        """
        claim = self.claim_next_job(task_types, owner=self._owner, lease_seconds=BARE_LEASE_SECONDS)
        if claim is None:
            return None
        self._held[claim.job.job_id] = _HeldJob(claim)
        return claim.job if isinstance(claim.job, JobRecord) else None

    def claim_next_job(self, task_types: list[str], *, owner: Owner, lease_seconds: float) -> Claim | None:
        """Claim the most urgent queued job of these types for ``owner``; who calls keeps its lease.

        Raises:
            kombu.exceptions.OperationalError: the broker cannot be reached.
        """
        self._announce_poller(owner.node, task_types)
        return polling.claim_next_job(
            self._app, self.store, task_types, owner=owner, lease_seconds=lease_seconds
        )

    def update_job(self, job_id: str, **fields: Any) -> bool:
        """Change ``status``, ``progress``, ``task_output`` or ``error_message``; a terminal status is final.

        A running job is changed only through the object whose `fetch_next_job` has claimed it; the status
        ``queued`` gives it back. A queued job can be changed by anybody. False when there is no such job, it
        runs elsewhere, or it is at its end.

        Raises:
            InvalidJobError: an unknown field, or a value that it cannot have.
        """
        if unknown := fields.keys() - _UPDATABLE:
            raise InvalidJobError(f"no such field of a job: {', '.join(sorted(unknown))}")
        status = _read_status(fields.pop("status", None))
        held = self._held.get(job_id)
        if held is not None:
            return self._update_held(held, status, fields)
        if status is JobStatus.PROCESSING:
            return False
        return self.store.update(job_id, status=None if status is JobStatus.QUEUED else status, **fields)

    def delete_job(self, job_id: str) -> bool:
        """Remove a job, False if unknown. One that runs is hidden at once, gone when its run stops."""
        return self.store.delete(job_id)

    def remove_job(self, job_id: str) -> Removal:
        """See `cl_ml_tools.common.job_control.RemovesJobs.remove_job`."""
        return self.store.remove(job_id)

    def cancel_job(self, job_id: str) -> CancelAnswer:
        """Cancel a job: a queued one at once, a running one by asking its run to stop."""
        return self.store.cancel(job_id)

    def retry_job(self, job_id: str) -> None:
        """Put a job that ended in ``error`` or ``cancelled`` back to its queue, with all its tries.

        Raises:
            UnknownJobError: there is no such job.
            JobStateError: its state forbids it.
        """
        self.send(self.store.retry(job_id))

    def check_broker(self) -> None:
        """Tie the records to this app's broker.

        Raises:
            StoreMismatchError: they belong to another broker.
        """
        self.store.bind_broker(broker_fingerprint(self._app))

    def close(self) -> None:
        """Close the connections to the record. Those to the broker are the app's."""
        self.store.close()

    def send(self, dispatch: Dispatch) -> bool:
        """Send the message that starts a job; False when the broker did not take it, which is logged.

        The job stays accepted: its record says that it is queued.
        """
        return send(self._app, [dispatch])

    def _announce_poller(self, node: str, task_types: Sequence[str]) -> None:
        """Say what a node polls for: from time to time, and when it is more than was said."""
        say_again_at, said = self._announced.get(node, (0.0, set()))
        if time.monotonic() >= say_again_at:
            said = set()
        elif said.issuperset(task_types):
            return
        said = said | set(task_types)
        self.announce(node, sorted(said))
        self._announced[node] = (time.monotonic() + SERVING_SECONDS / 3, said)

    def _update_held(self, held: _HeldJob, status: JobStatus | None, fields: dict[str, Any]) -> bool:
        job_id, token = held.claim.job.job_id, held.claim.token
        progress = fields.pop("progress", None)
        held.said |= fields
        if status is JobStatus.QUEUED:
            return self._release(job_id)
        if status is not None and status.is_terminal:
            outcome = Outcome(status, held.said.get("task_output"), held.said.get("error_message"))
            stored = self.store.finish(job_id, token=token, outcome=outcome)
            self._held.pop(job_id, None)
            return stored is Finished.STORED
        if progress is not None:
            self.store.report(job_id, token=token, progress=progress)
        (state,) = self.store.extend(self._owner.node, [(job_id, token)], lease_seconds=BARE_LEASE_SECONDS)
        if state is RunState.CURRENT:
            return True
        if state is not RunState.STOPPING:
            self._held.pop(job_id, None)
        return False

    def _release(self, job_id: str) -> bool:
        self._held.pop(job_id, None)
        requeued = self.store.requeue(
            job_id, owner=self._owner, cause=RequeueCause.RELEASED, detail="given back by its caller"
        )
        if requeued.dispatch is not None:
            self.send(requeued.dispatch)
        return requeued.state is RequeueState.QUEUED


def _read_status(status: object) -> JobStatus | None:
    try:
        return None if status is None else JobStatus(str(status))
    except ValueError as error:
        raise InvalidJobError(f"no such status of a job: {status!r}") from error
