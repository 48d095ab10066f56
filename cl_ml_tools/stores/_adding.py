"""What the script ``add`` is told of a job, and what its answers mean."""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cl_ml_tools.common.job_control import REMEMBERED_SECONDS, Submission
from cl_ml_tools.common.job_leases import Dispatch
from cl_ml_tools.common.schemas import Job, JobStatus
from cl_ml_tools.errors import (
    DuplicateJobError,
    IdempotencyKeyReusedError,
    InvalidJobError,
    RepeatedSubmissionError,
    SubmissionTooLateError,
)
from cl_ml_tools.file_names import check_job_id
from cl_ml_tools.stores._records import file_names, to_json

DEFAULT_PRIORITY = 5


class Addition:
    """One job on its way into the record.

    Its token stays the same however often the script is asked.

    Raises:
        InvalidJobError: the job cannot be stored as it is.
        InvalidJobIdError: its id is not a plain id.
    """

    def __init__(
        self,
        job: Job,
        *,
        created_by: str | None,
        priority: int | None,
        not_before: datetime | None = None,
        expires: datetime | None = None,
        submission: Submission | None = None,
    ) -> None:
        check_job_id(job.job_id)
        level = DEFAULT_PRIORITY if priority is None else priority
        if not isinstance(level, int) or isinstance(level, bool) or not 0 <= level <= 10:
            raise InvalidJobError(f"priority must be a whole number, 0 to 10, not {level!r}")
        if job.status != JobStatus.QUEUED:
            raise InvalidJobError(f"status of a new job must be 'queued', not {job.status!r}")
        self.job = job
        self._level = level
        self._before_deadline = (job.job_id, secrets.token_hex(8))
        self._after_deadline = (
            job.task_type,
            to_json("params", job.params),
            level,
            created_by or "",
            _timestamp_ms("not_before", not_before),
            _timestamp_ms("expires", expires),
            *_remembered(submission, created_by),
        )

    def arguments(self, not_after: int) -> tuple[str | int, ...]:
        """The script's arguments."""
        return (*self._before_deadline, not_after, *self._after_deadline)

    def dispatch(self, answer: Sequence[Any]) -> Dispatch:
        """The message that has to be sent, none when its sequence is 0.

        Raises:
            DuplicateJobError, RepeatedSubmissionError, IdempotencyKeyReusedError, SubmissionTooLateError:
                nothing was stored.
        """
        word, sequence, _, *first = answer
        if word == "repeated":
            raise RepeatedSubmissionError(first[0])
        if word == "conflict":
            raise IdempotencyKeyReusedError(
                f"This idempotency key was used for something else, job {first[0]!r}. Use a new key for each job."
            )
        if word == "exists":
            raise DuplicateJobError(f"there is a job {self.job.job_id!r} already", [self.job.job_id])
        if word == "late":
            raise SubmissionTooLateError("Redis answered too late; the job was not accepted")
        return Dispatch(
            self.job.job_id, self.job.task_type, self._level, sequence, 0, file_names(self.job.params)
        )


def _remembered(submission: Submission | None, created_by: str | None) -> tuple[str, str, int]:
    if submission is None:
        return "", "", 0
    # Hashed, so that a key of any length or content is a short name; a creator's keys are their own.
    name = hashlib.sha256(
        f"{created_by or ''}\0{submission.key}".encode("utf-8", "surrogatepass")
    ).hexdigest()
    return name, submission.fingerprint, REMEMBERED_SECONDS * 1000


def _timestamp_ms(field: str, moment: datetime | None) -> int | str:
    if moment is None:
        return ""
    if moment.tzinfo is None:
        raise InvalidJobError(f"{field} must have a time zone: {moment}")
    return int(moment.timestamp() * 1000)
