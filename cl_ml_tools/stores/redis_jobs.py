"""The record of jobs in Redis or Valkey (6.2 or newer): one hash a job, one Lua script an act."""

import secrets
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Self, cast

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cl_ml_tools.common.job_control import Removal, Submission
from cl_ml_tools.common.job_leases import (
    CancelAnswer,
    Claim,
    Dispatch,
    Finished,
    Outcome,
    Owner,
    Refusal,
    RequeueCause,
    Requeued,
    RequeueState,
    RunState,
)
from cl_ml_tools.common.schemas import Job, JobRecord, JobStatus
from cl_ml_tools.errors import (
    InvalidJobError,
    JobStateError,
    StoreMismatchError,
    StoreUnavailableError,
    UnknownJobError,
)
from cl_ml_tools.stores._adding import Addition
from cl_ml_tools.stores._keys import KeyNames
from cl_ml_tools.stores._records import read_dispatch, read_pairs, read_record, to_json, to_text
from cl_ml_tools.stores._scripts import ScriptRunner
from cl_ml_tools.stores._server_clock import ServerClock

RECORD_FORMAT = "1"
"""The version of what the scripts keep. Another one is refused at start."""

BULK = 500
"""How many jobs are added in one round trip."""


class RedisJobStore:
    """Keeps job records and leases; safe to share between threads, and across a fork.

    All methods are atomic on the server and may be repeated. They raise
    `cl_ml_tools.errors.StoreUnavailableError` when Redis has not answered within about twice the timeout.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads it.
        prefix: first part of all key names.
        timeout_seconds: longest wait for one answer, and for one connection.
        max_crashes: a job whose process died this often ends in ``error``.

    Attributes:
        client, keys, scripts: for the other rooms of ``stores``.
    """

    def __init__(
        self, url: str, *, prefix: str = "cl_ml_tools", timeout_seconds: float = 2.0, max_crashes: int = 3
    ) -> None:
        self.url = url
        self.prefix = prefix
        self._timeout_seconds = timeout_seconds
        self._max_crashes = max_crashes
        self.client: Redis = Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            # A unix socket has no such option.
            **({} if url.startswith("unix:") else {"socket_keepalive": True}),
            # Repeats are counted in one place, ScriptRunner, or the bounds would multiply.
            retry=Retry(NoBackoff(), 0),
            # RESP3 brings nothing here and costs a longer handshake.
            protocol=2,
            client_name="cl_ml_tools",
        )
        self.keys = KeyNames(prefix)
        self.scripts = ScriptRunner(self.client, prefix, timeout_seconds)
        self._clock = ServerClock(self.client, self.scripts, self.keys, timeout_seconds)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def bind_broker(self, fingerprint: str) -> None:
        """Tie the prefix to a broker; the first caller decides.

        Raises:
            StoreMismatchError: the prefix belongs to another broker.
        """
        meta = self.keys("meta")

        def bind() -> list[str | None]:
            self.client.hsetnx(meta, "broker", fingerprint)
            self.client.hsetnx(meta, "format", RECORD_FORMAT)
            return cast("list[str | None]", self.client.hmget(meta, ["broker", "format"]))

        kept, kept_format = self.scripts.call(bind)
        if kept_format != RECORD_FORMAT:
            raise StoreMismatchError(
                f"The records under the prefix {self.prefix!r} have the format {kept_format}, this version of "
                f"cl_ml_tools reads {RECORD_FORMAT}. Run one version everywhere, or use another prefix "
                "(CL_ML_TOOLS_KEY_PREFIX)."
            )
        if kept != fingerprint:
            raise StoreMismatchError(
                f"The records under the prefix {self.prefix!r} belong to the broker {kept!r}, not "
                f"{fingerprint!r}. Give this installation a prefix of its own (CL_ML_TOOLS_KEY_PREFIX), or, "
                f"when the broker has moved and the old one is empty, run: HDEL {meta} broker"
            )

    def identity(self) -> str:
        """A name that this record alone has. A Redis that was emptied makes another one."""
        meta = self.keys("meta")

        def agree() -> str:
            self.client.hsetnx(meta, "identity", secrets.token_hex(16))
            return str(self.client.hget(meta, "identity"))

        return self.scripts.call(agree)

    def check_takes_jobs(self) -> None:
        """Return if something can be stored here now: a server that is full, or a replica, still answers questions.

        Raises:
            StoreUnavailableError: nothing can.
        """
        self.scripts.call(lambda: self.client.hset(self.keys("meta"), "probe", "1"))

    def now(self) -> int:
        """The time that all times of records go by, ms since 1970."""
        return self._clock.ask()

    def has_storage(self) -> bool:
        """Whether a storage is tied to this record."""
        return bool(self.scripts.call(lambda: self.client.hexists(self.keys("meta"), "has_storage")))

    def note_storage(self) -> None:
        """From now on a storage is tied to this record."""
        self.scripts.call(lambda: self.client.hset(self.keys("meta"), "has_storage", "1"))

    def add(
        self,
        job: Job,
        *,
        created_by: str | None = None,
        priority: int | None = None,
        not_before: datetime | None = None,
        expires: datetime | None = None,
        submission: Submission | None = None,
    ) -> Dispatch:
        """Accept a job; the caller sends the answer's message, unless its sequence is 0.

        A command that a hung server executes after the caller gave up is refused by its deadline.

        Args:
            job: what is to be done.
            created_by: whose job it is.
            priority: 0 to 10, higher is more urgent; None means 5.
            not_before: when it may start at the earliest.
            expires: when it ends in ``cancelled`` if it has not started.
            submission: what tells it from others, to be remembered.

        Raises:
            InvalidJobError: the job is not ``queued``, or its params are not JSON.
            InvalidJobIdError: its id is not a plain id.
            DuplicateJobError: there is a job with this id.
            RepeatedSubmissionError: the submission is known, and its job is there.
            IdempotencyKeyReusedError: its key is known, for another submission.
            SubmissionTooLateError: the server answered after the deadline; nothing was stored.
        """
        addition = Addition(
            job,
            created_by=created_by,
            priority=priority,
            not_before=not_before,
            expires=expires,
            submission=submission,
        )
        answer = self._clock.in_time(
            lambda not_after: self.scripts.run("add", *addition.arguments(not_after))
        )
        return addition.dispatch(answer)

    def add_all(
        self, jobs: Sequence[Job], *, created_by: str | None = None, priority: int | None = None
    ) -> Iterator[list[Dispatch]]:
        """Accept many jobs, each by itself, in a round trip for each `BULK` of them.

        Yields the messages that have to be sent after each round trip; jobs that cannot be accepted because there is
        one with the same id are left out. All are checked before the first is stored.

        Raises:
            InvalidJobError, InvalidJobIdError: see `add`; or an id is there twice.
            SubmissionTooLateError: the server answered after the deadline; some of the jobs may be stored.
        """
        additions = [Addition(job, created_by=created_by, priority=priority) for job in jobs]
        if len({job.job_id for job in jobs}) < len(jobs):
            raise InvalidJobError("two of the jobs have the same id")
        for first in range(0, len(additions), BULK):
            answers = self._add_some(additions[first : first + BULK])
            yield [addition.dispatch(answer) for addition, answer in answers if answer[0] != "exists"]

    def _add_some(self, additions: Sequence[Addition]) -> Iterator[tuple[Addition, Sequence[Any]]]:
        answers: list[Sequence[Any]] = []

        def ask(not_after: int) -> Sequence[Any]:
            answers[:] = self.scripts.run_each("add", [each.arguments(not_after) for each in additions])
            # One that was late makes all be asked again, which those that were stored do not mind.
            return next((answer for answer in answers if answer[0] == "late"), answers[0])

        self._clock.in_time(ask)
        return zip(additions, answers, strict=True)

    def claim(
        self, job_id: str, *, token: str, owner: Owner, sequence: int, lease_seconds: float
    ) -> Claim | Refusal:
        """See `cl_ml_tools.common.job_leases.JobLeases.claim`."""
        answer, *record = self._clock.in_time(
            lambda not_after: self.scripts.run(
                "claim",
                job_id,
                token,
                owner.node,
                owner.process,
                sequence,
                _ms(lease_seconds),
                self._max_crashes,
                not_after,
            )
        )
        if answer == "late":
            raise StoreUnavailableError("Redis answered too late; nothing was claimed")
        if answer == "claimed":
            return Claim(read_record(job_id, read_pairs(record)), token)
        return Refusal(answer)

    def extend(
        self, node: str, runs: Sequence[tuple[str, str | None]], *, lease_seconds: float
    ) -> list[RunState]:
        """See `cl_ml_tools.common.job_leases.JobLeases.extend`."""
        arguments = [argument for job_id, token in runs for argument in (job_id, token or "")]
        return [RunState(state) for state in self.scripts.run("extend", node, _ms(lease_seconds), *arguments)]

    def report(self, job_id: str, *, token: str, progress: int) -> RunState:
        """See `cl_ml_tools.common.job_leases.JobLeases.report`."""
        return RunState(self.scripts.run("report", job_id, token, max(0, min(99, progress))))

    def finish(self, job_id: str, *, token: str, outcome: Outcome) -> Finished:
        """See `cl_ml_tools.common.job_leases.JobLeases.finish`.

        Raises:
            InvalidJobError: the status is not terminal, or the output is not JSON.
        """
        if not outcome.status.is_terminal:
            raise InvalidJobError(f"a job cannot finish as {outcome.status!r}")
        output = "" if outcome.task_output is None else to_json("task_output", outcome.task_output)
        return Finished(
            self.scripts.run("finish", job_id, token, outcome.status, output, to_text(outcome.error_message))
        )

    def requeue(
        self,
        job_id: str,
        *,
        owner: Owner,
        cause: RequeueCause,
        detail: str,
        token: str | None = None,
        sequence: int = 0,
        max_retries: int = 0,
        delay_seconds: float = 0.0,
    ) -> Requeued:
        """See `cl_ml_tools.common.job_leases.JobLeases.requeue`."""
        answer, *record = self.scripts.run(
            "requeue",
            job_id,
            secrets.token_hex(8),
            owner.node,
            owner.process,
            token or "",
            cause,
            to_text(detail),
            max_retries if cause is RequeueCause.FAILED else self._max_crashes,
            _ms(delay_seconds),
            sequence,
        )
        dispatch = read_dispatch(job_id, read_pairs(record)) if answer == "queued" else None
        return Requeued(RequeueState(answer), dispatch)

    def cancel(self, job_id: str) -> CancelAnswer:
        """Cancel a job: a queued one at once, a running one by asking its run to stop."""
        return CancelAnswer(self.scripts.run("cancel", job_id))

    def retry(self, job_id: str) -> Dispatch:
        """Put a job that ended in ``error`` or ``cancelled`` back to its queue; the caller sends the message.

        Raises:
            UnknownJobError: there is no such job.
            JobStateError: its state forbids it.
        """
        answer, *record = self.scripts.run("retry", job_id, secrets.token_hex(8))
        if answer == "unknown":
            raise UnknownJobError(f"there is no job {job_id!r}")
        if answer == "refused":
            raise JobStateError(
                f"job {job_id!r} has not ended in 'error' or 'cancelled': it cannot be retried"
            )
        return read_dispatch(job_id, read_pairs(record))

    def states(self, job_ids: Sequence[str]) -> dict[str, JobStatus | None]:
        """The status of each job, those that are deleted but still run among them; None without a record."""
        answers = self.scripts.run("states", *job_ids) if job_ids else []
        return {
            job_id: JobStatus(status) if status else None
            for job_id, status in zip(job_ids, answers, strict=True)
        }

    def update(
        self,
        job_id: str,
        *,
        status: JobStatus | None = None,
        progress: int | None = None,
        task_output: dict[str, Any] | None = None,
        error_message: str | None = None,
    ) -> bool:
        """Change a queued job that nobody has claimed; a terminal ``status`` ends it. Else False."""
        if status is not None and not status.is_terminal:
            raise InvalidJobError(f"a queued job cannot be set to {status!r}; a claim does that")
        shown = "" if progress is None else max(0, min(99, progress))
        output = "" if task_output is None else to_json("task_output", task_output)
        update_token = secrets.token_hex(8)
        return bool(
            self.scripts.run(
                "update", job_id, update_token, status or "", shown, output, to_text(error_message)
            )
        )

    def delete(self, job_id: str) -> bool:
        """Remove a job; one that runs is hidden at once and removed when its run stops. False if unknown."""
        return self.remove(job_id) is not Removal.UNKNOWN

    def remove(self, job_id: str) -> Removal:
        """See `cl_ml_tools.common.job_control.RemovesJobs.remove_job`."""
        answer, asked_twice = self.scripts.run_told("delete", job_id)
        if answer == "unknown":
            # After a lost reply the job may run, hidden: then its files are not the caller's.
            return Removal.HIDDEN if asked_twice else Removal.UNKNOWN
        return Removal.REMOVED if answer == "deleted" else Removal.HIDDEN

    def peek(self, task_types: Sequence[str]) -> Sequence[str]:
        """Those of the task types that have queued jobs, the one with the most urgent job first."""
        return cast("list[str]", self.scripts.run("peek", *task_types)) if task_types else []

    def get(self, job_id: str) -> JobRecord | None:
        """The record, or None when there is none or it is deleted."""
        fields = cast(
            "dict[str, str]", self.scripts.call(lambda: self.client.hgetall(self.keys("job", job_id)))
        )
        return read_record(job_id, fields) if fields and "deleted" not in fields else None

    def claim_turn(self, name: str, seconds: float) -> bool:
        """Whether it is the caller's turn to do ``name``: at most one caller's within that time."""
        key = self.keys("turn", name)
        return bool(self.scripts.call(lambda: self.client.set(key, "1", nx=True, px=_ms(seconds))))


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
