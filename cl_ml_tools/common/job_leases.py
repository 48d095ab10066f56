"""What running and recovering jobs need of a store: claims that are fenced, leases that end.

Every method is one atomic act, and may be repeated. Under its token the same answer comes again after a lost
reply; `JobLeases.requeue` has none of its caller's, and a repeat may answer ``LOST``, which changes nothing: the job
is back, and recovery sends its message. Every method raises `cl_ml_tools.errors.StoreUnavailableError` when the store
does not answer within its bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from cl_ml_tools.common.schemas import Job, JobStatus


@dataclass(frozen=True, slots=True)
class Owner:
    """Who runs a job.

    Attributes:
        node: an id made at each start of a worker's main process.
        process: the process id of the pool process that runs it.
    """

    node: str
    process: int


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A message that has to be sent so that a job is started.

    Attributes:
        job_id: the job.
        task_type: selects the queue.
        priority: 0 to 10, higher is more urgent.
        sequence: the send's number in its line (the jobs of one queue and priority), from 1. 0: not to be
            sent yet, recovery does so when the job is due.
        retries: how often a person asked for another try; part of the Celery task's id.
        file_names: names of the inputs, for people who watch.
    """

    job_id: str
    task_type: str
    priority: int
    sequence: int
    retries: int
    file_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run a job: the job as claimed, and the token that report and finish must carry."""

    job: Job
    token: str


class Refusal(StrEnum):
    """Why a claim is refused."""

    DONE = "done"
    """The job is completed or failed."""
    CANCELLED = "cancelled"
    """The job is cancelled."""
    HELD = "held"
    """Another claim runs it."""
    UNKNOWN = "unknown"
    """There is no such job."""
    EARLY = "early"
    """Its next try is not due yet."""
    GIVEN_UP = "given_up"
    """It has crashed or lost its lease too often; the claim has ended it in ``error``."""


class RunState(StrEnum):
    """What a run is told when it extends or reports."""

    CURRENT = "current"
    """Go on."""
    STOPPING = "stopping"
    """A cancel was asked for: stop, then finish as cancelled."""
    LOST = "lost"
    """The claim is no longer the job's: stop, and touch nothing."""
    IDLE = "idle"
    """Nobody runs the job: not yet claimed, or at its end."""


class Finished(StrEnum):
    """What became of an outcome."""

    STORED = "stored"
    """It is the job's outcome."""
    LOST = "lost"
    """The claim was no longer the job's; nothing changed."""
    DELETED = "deleted"
    """The job was deleted while it ran; its record is gone, its files are the caller's to remove."""


class RequeueCause(StrEnum):
    """Why a job goes back to its queue."""

    RELEASED = "released"
    """Its worker gave it back in order; counts nothing."""
    CRASHED = "crashed"
    """The process that ran it died; at the limit of crashes the job ends in ``error``."""
    FAILED = "failed"
    """Its plugin failed in a way that is worth another try; after ``max_retries`` it ends in ``error``."""
    TIMED_OUT = "timed_out"
    """It has run for longer than it may; the job ends in ``error``."""


class RequeueState(StrEnum):
    """What became of a job that was to go back to its queue."""

    QUEUED = "queued"
    """It is queued; its message has to be sent."""
    WAITING = "waiting"
    """It is queued, and recovery sends its message when it is due."""
    ENDED = "ended"
    """It is at its end: a limit was reached."""
    CANCELLED = "cancelled"
    """It is at its end: a cancel waited. That is no crash, however the run ended."""
    DELETED = "deleted"
    """It was deleted while it ran; its record is gone, its files are the caller's to remove."""
    LOST = "lost"
    """The owner does not run it."""


@dataclass(frozen=True, slots=True)
class Requeued:
    """The answer to a requeue; ``dispatch`` is the message to send when the state is ``QUEUED``."""

    state: RequeueState
    dispatch: Dispatch | None


class CancelAnswer(StrEnum):
    """What became of a cancel."""

    CANCELLED = "cancelled"
    """The job is cancelled."""
    STOPPING = "stopping"
    """It runs; its run is asked to stop."""
    ENDED = "ended"
    """It was completed or failed before; nothing changed."""
    UNKNOWN = "unknown"
    """There is no such job."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: a terminal status with the task's output or the reason."""

    status: JobStatus
    task_output: dict[str, Any] | None = None
    error_message: str | None = None


class OutcomeStore(Protocol):
    """Takes the outcome of a run."""

    def finish(self, job_id: str, *, token: str, outcome: Outcome) -> Finished:
        """Store the outcome and end the claim. Once stored it is final."""
        ...


@runtime_checkable
class JobLeases(OutcomeStore, Protocol):
    """Claims, leases and outcomes of jobs."""

    def claim(
        self, job_id: str, *, token: str, owner: Owner, sequence: int, lease_seconds: float
    ) -> Claim | Refusal:
        """Take a queued job for ``owner`` until the lease ends.

        A claim repeated under its token gets the same claim again.
        """
        ...

    def extend(
        self, node: str, runs: Sequence[tuple[str, str | None]], *, lease_seconds: float
    ) -> list[RunState]:
        """Let the leases of these runs, each a job id and a token, end ``lease_seconds`` from now.

        The lease goes by its owner's node: with None as token any run of the job on the node is meant.
        A lease that has ended but was not yet recovered is taken up again. Answers in the order of ``runs``.
        """
        ...

    def report(self, job_id: str, *, token: str, progress: int) -> RunState:
        """Store progress; it never goes back within an attempt, and is stored as at most 99."""
        ...

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
        """End the run of a job that ``owner`` has, and put the job back to its queue or to its end.

        Args:
            job_id: the job.
            owner: who runs it.
            cause: why its run has ended; decides what is counted, and which limit holds.
            detail: what is known of it, for the job's history and error message.
            token: the claim's token; None means whatever run of the job the owner has.
            sequence: of the message that was delivered to a process that died: also when it had not claimed
                the job yet, that is a crash. 0 means not known.
            max_retries: how many failed tries may be repeated.
            delay_seconds: how long the next try waits.

        Repeated by the caller after a lost reply it may answer ``LOST``, and changes nothing.
        """
        ...


@runtime_checkable
class LeasingJobRepository(Protocol):
    """A repository whose jobs are claimed under leases, so that several runtimes can share them."""

    @property
    def leases(self) -> JobLeases:
        """Where the claims' leases are kept."""
        ...

    def claim_next_job(self, task_types: list[str], *, owner: Owner, lease_seconds: float) -> Claim | None:
        """Claim the most urgent queued job of these types for ``owner``, or None."""
        ...

    def send(self, dispatch: Dispatch) -> bool:
        """Send the message that starts a job which has to run again; False when that has to be left to recovery."""
        ...
