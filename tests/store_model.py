"""What the store must do, as plain Python: the reference of the state machine. Times are ticks."""

from dataclasses import dataclass, field

from cl_ml_tools.common.job_leases import (
    CancelAnswer,
    Finished,
    Refusal,
    RequeueCause,
    RequeueState,
    RunState,
)

TERMINAL = ("completed", "error", "cancelled")

LEASE_TICKS = 3
GRACE_AFTER_TICKS = 1.5
"""Half a lease without a beat means that nobody could extend."""


@dataclass
class ModelJob:
    """A job as it must be."""

    status: str = "queued"
    attempt: int = 0
    progress: int = 0
    crashes: int = 0
    leases_lost: int = 0
    failures: int = 0
    retries: int = 0
    cancel_requested: bool = False
    deleted: bool = False
    token: str | None = None
    node: str | None = None
    process: int | None = None
    lease_ends: int | None = None
    due: int | None = None
    expires: int | None = None
    ended_as: list[str] = field(default_factory=list)

    @property
    def waits_in_line(self) -> bool:
        return self.status == "queued" and self.due is None

    def end(self, status: str) -> None:
        assert self.status not in TERMINAL, "a terminal state has changed"
        if status == "completed":
            self.progress = 100
        self.status = status
        self.ended_as.append(status)
        self.cancel_requested = False
        self.token = self.lease_ends = self.due = None

    def queue(self, due: int | None = None) -> None:
        self.status, self.progress, self.due = "queued", 0, due
        self.token = self.node = self.process = self.lease_ends = None


class Model:
    """All jobs, and the rules of each act."""

    def __init__(self, max_crashes: int, max_leases_lost: int) -> None:
        self.jobs: dict[str, ModelJob] = {}
        self.now = 0
        self.beat: float = float("-inf")
        self._max_crashes = max_crashes
        self._max_leases_lost = max_leases_lost

    def visible(self, job_id: str) -> ModelJob | None:
        job = self.jobs.get(job_id)
        return None if job is None or job.deleted else job

    def add(self, job_id: str, not_before: int | None, expires: int | None) -> None:
        due = not_before if not_before is not None and not_before > self.now else None
        self.jobs[job_id] = ModelJob(due=due, expires=expires)

    def claim(self, job_id: str, token: str, node: str, process: int) -> Refusal | None:
        job = self.visible(job_id)
        if job is None:
            return Refusal.UNKNOWN
        if job.status == "processing":
            return None if job.token == token else Refusal.HELD
        if job.status == "cancelled":
            return Refusal.CANCELLED
        if job.status != "queued":
            return Refusal.DONE
        if job.expires is not None and job.attempt == 0 and job.expires <= self.now:
            job.end("cancelled")
            return Refusal.CANCELLED
        if job.due is not None and job.due > self.now:
            return Refusal.EARLY
        job.status, job.progress, job.due = "processing", 0, None
        job.attempt += 1
        job.token, job.node, job.process = token, node, process
        job.lease_ends = self.now + LEASE_TICKS
        return None

    def note_beat(self) -> None:
        if self.now - self.beat > GRACE_AFTER_TICKS:
            for job in self.jobs.values():
                if job.lease_ends is not None:
                    job.lease_ends = max(job.lease_ends, self.now + LEASE_TICKS)
        self.beat = self.now

    def extend(self, node: str, runs: list[tuple[str, str | None]]) -> list[RunState]:
        self.note_beat()
        return [self._extend(node, job_id, token) for job_id, token in runs]

    def _extend(self, node: str, job_id: str, token: str | None) -> RunState:
        job = self.jobs.get(job_id)
        if job is not None and job.status == "processing":
            if job.node != node or token not in (None, job.token):
                return RunState.LOST
            job.lease_ends = self.now + LEASE_TICKS
            return RunState.STOPPING if job.cancel_requested else RunState.CURRENT
        finished_under = None if job is None else job.token
        return RunState.LOST if token is not None and token != finished_under else RunState.IDLE

    def report(self, job_id: str, token: str, progress: int) -> RunState:
        job = self.jobs.get(job_id)
        if job is None or job.status != "processing" or job.token != token:
            return RunState.LOST
        job.progress = max(job.progress, progress)
        return RunState.STOPPING if job.cancel_requested else RunState.CURRENT

    def finish(self, job_id: str, token: str, status: str) -> Finished:
        job = self.jobs.get(job_id)
        if job is None:
            return Finished.DELETED
        if job.token != token:
            return Finished.LOST
        if job.status != "processing":
            return Finished.STORED
        if job.deleted:
            del self.jobs[job_id]
            return Finished.DELETED
        job.end(status)
        job.token = token
        return Finished.STORED

    def requeue(
        self, job_id: str, token: str, node: str, process: int, cause: RequeueCause, retries: int, delay: int
    ) -> RequeueState:
        job = self.jobs.get(job_id)
        if job is None or job.status != "processing":
            return RequeueState.LOST
        if (job.token, job.node, job.process) != (token, node, process):
            return RequeueState.LOST
        if job.deleted:
            del self.jobs[job_id]
            return RequeueState.DELETED
        if job.cancel_requested:
            job.end("cancelled")
            return RequeueState.CANCELLED
        ended = None
        if cause is RequeueCause.TIMED_OUT:
            ended = "error"
        elif cause is RequeueCause.CRASHED:
            job.crashes += 1
            ended = "error" if job.crashes >= self._max_crashes else None
        elif cause is RequeueCause.FAILED:
            job.failures += 1
            ended = "error" if job.failures > retries else None
        if ended is not None:
            job.end(ended)
            return RequeueState.ENDED
        job.queue(self.now + delay if delay else None)
        return RequeueState.WAITING if delay else RequeueState.QUEUED

    def cancel(self, job_id: str) -> CancelAnswer:
        job = self.visible(job_id)
        if job is None:
            return CancelAnswer.UNKNOWN
        if job.status == "queued":
            job.end("cancelled")
            return CancelAnswer.CANCELLED
        if job.status == "processing":
            job.cancel_requested = True
            return CancelAnswer.STOPPING
        return CancelAnswer.CANCELLED if job.status == "cancelled" else CancelAnswer.ENDED

    def retry(self, job_id: str) -> str:
        job = self.visible(job_id)
        if job is None:
            return "unknown"
        if job.status not in ("error", "cancelled"):
            return "refused"
        job.crashes = job.leases_lost = job.failures = 0
        job.retries += 1
        job.expires = None
        job.queue()
        return "queued"

    def delete(self, job_id: str) -> bool:
        job = self.visible(job_id)
        if job is None:
            return False
        if job.status == "processing":
            job.deleted = job.cancel_requested = True
        else:
            del self.jobs[job_id]
        return True

    def recover_leases(self) -> set[tuple[str, str]]:
        self.note_beat()
        acts = set()
        for job_id, job in list(self.jobs.items()):
            if job.lease_ends is None or job.lease_ends > self.now:
                continue
            if job.deleted:
                del self.jobs[job_id]
                acts.add(("deleted", job_id))
            elif job.cancel_requested:
                job.end("cancelled")
                acts.add(("cancelled", job_id))
            else:
                job.leases_lost += 1
                if job.leases_lost >= self._max_leases_lost:
                    job.end("error")
                    acts.add(("error", job_id))
                else:
                    job.queue()
                    acts.add(("queued", job_id))
        return acts

    def recover_due(self) -> set[tuple[str, str]]:
        acts = set()
        for job_id, job in self.jobs.items():
            if job.status != "queued":
                continue
            if job.expires is not None and job.attempt == 0 and job.expires <= self.now:
                job.end("cancelled")
                acts.add(("expired", job_id))
            elif job.due is not None and job.due <= self.now:
                job.due = None
                acts.add(("queued", job_id))
        return acts
