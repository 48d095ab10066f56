"""The repository of jobs that stores each one in Redis and sends it as a Celery message."""

import logging
from typing import Any

from celery import Celery

from cl_ml_tools.celery_bridge.queues import broker_fingerprint, celery_task_name, job_queue, message_priority
from cl_ml_tools.common.job_leases import Dispatch
from cl_ml_tools.common.schemas import Job, JobRecord, JobStatus
from cl_ml_tools.errors import InvalidJobError
from cl_ml_tools.stores.redis_jobs import RedisJobStore

logger = logging.getLogger(__name__)

_UPDATABLE = frozenset({"status", "progress", "task_output", "error_message"})


class CeleryJobRepository:
    """A `cl_ml_tools.JobRepository` whose jobs are run by Celery workers.

    Safe to share between threads. Every method raises `cl_ml_tools.errors.StoreUnavailableError` when Redis
    does not answer within its bound.

    Args:
        app: the Celery app that sends.
        store: the record of jobs.
    """

    def __init__(self, app: Celery, store: RedisJobStore) -> None:
        self._app = app
        self._store = store

    def add_job(self, job: Job, created_by: str | None = None, priority: int | None = None) -> str:
        """Store the job, then send its message; returns its id.

        Once stored it is accepted: a broker that is away only delays it.

        Raises:
            InvalidJobError: the job cannot be stored as it is.
            InvalidJobIdError: its id is not a plain id.
            DuplicateJobError: there is a job with this id.
        """
        dispatch = self._store.add(job, created_by=created_by, priority=priority)
        self.send(dispatch)
        return job.job_id

    def get_job(self, job_id: str) -> JobRecord | None:
        """The job with all that is known of it, or None."""
        return self._store.get(job_id)

    def list_jobs(
        self, *, status: JobStatus | None = None, created_before: int | None = None, limit: int = 100
    ) -> list[JobRecord]:
        """Jobs by creation time, newest first.

        Args:
            status: only jobs in this status.
            created_before: only jobs accepted before this time, in ms since 1970.
            limit: at most so many.
        """
        return self._store.list(status=status, created_before=created_before, limit=limit)

    def update_job(self, job_id: str, **fields: Any) -> bool:
        """Change ``status``, ``progress``, ``task_output`` or ``error_message`` of a queued job.

        A terminal status ends the job. False when there is no such job, or it is running or at its end: a
        running job is changed only by who runs it.

        Raises:
            InvalidJobError: an unknown field, or a value that it cannot have.
        """
        if unknown := fields.keys() - _UPDATABLE:
            raise InvalidJobError(f"no such field of a job: {', '.join(sorted(unknown))}")
        status = fields.get("status")
        if status == JobStatus.QUEUED:
            status = None
        return self._store.update(
            job_id,
            status=None if status is None else JobStatus(status),
            progress=fields.get("progress"),
            task_output=fields.get("task_output"),
            error_message=fields.get("error_message"),
        )

    def delete_job(self, job_id: str) -> bool:
        """Remove a job. One that runs is hidden at once, and gone when its run has stopped. False if unknown."""
        return self._store.delete(job_id)

    def check_broker(self) -> None:
        """Tie the records to this app's broker.

        Raises:
            StoreMismatchError: they belong to another broker.
        """
        self._store.bind_broker(broker_fingerprint(self._app))

    def close(self) -> None:
        """Close the connections to the record and to the broker."""
        self._store.close()
        self._app.close()

    def send(self, dispatch: Dispatch) -> bool:
        """Send the message that starts a job; False when the broker did not take it, which is logged.

        The job stays accepted: its record says that it is queued.
        """
        job_id = dispatch.job_id
        try:
            self._app.send_task(
                celery_task_name(dispatch.task_type),
                (job_id, dispatch.sequence),
                # Workers discard ids that were ever revoked, so another try has another id.
                task_id=f"{job_id}.{dispatch.retries}" if dispatch.retries else job_id,
                queue=job_queue(self._app, dispatch.task_type),
                priority=message_priority(self._app, dispatch.priority),
                serializer="json",
                # Without this a result backend would be subscribed to for each job.
                ignore_result=True,
                # What Flower shows: no whole paths, no parameters that may be secret.
                argsrepr=repr((dispatch.task_type, *dispatch.file_names[:3]))[:200],
                kwargsrepr="{}",
            )
        except Exception:
            logger.warning("job %s is accepted, but its message could not be sent", job_id, exc_info=True)
            return False
        return True
