"""What a worker's main process sees of each delivery."""

from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, WorkerLostError
from celery.worker import state as worker_state
from celery.worker.request import Request

from cl_ml_tools.celery_bridge.installation import installations

if TYPE_CHECKING:
    from cl_ml_tools.celery_bridge.attendant import Attendant


class JobRequest(Request):  # type: ignore[misc]  # Celery has no types
    """A delivery of a job's message: tells the node's attendant of every end that the task itself cannot see.

    Celery's own handlers (``Task.on_failure`` and the signals) do not run for all of them, and do not say
    which process it was.
    """

    accepted_at: float | None = None
    """When (``time.monotonic``) a process of the pool began with it; None before."""

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """A process of the pool has begun with the task."""
        self.accepted_at = time_accepted
        super().on_accepted(pid, time_accepted)

    @property
    def hard_time_limit(self) -> float:
        """After so many seconds the run is ended (on prefork)."""
        return float(self.time_limits[0] or self.task.time_limit or self.task.longest_run)

    @property
    def has_limit_of_celery(self) -> bool:
        """Whether Celery knows the hard limit, and keeps it."""
        return bool(self.time_limits[0] or self.task.time_limit)

    @property
    def job_id(self) -> str:
        """The job that the message is about; empty for a stranger's message that names none."""
        return str(self.args[0] if self.args else self.kwargs.get("job_id", ""))

    @property
    def _sequence(self) -> int:
        sequence = self.args[1] if len(self.args) > 1 else 0
        return sequence if isinstance(sequence, int) else 0

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """The task failed; a pool process that died or was told to end is such a failure."""
        exception = exc_info.exception
        if isinstance(exception, ExceptionWithTraceback):
            exception = exception.exc
        handled = super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
        attendant, process = self._attendant, self.worker_pid
        if attendant is None or process is None or self._already_cancelled:
            return handled
        if isinstance(exception, Terminated):
            attendant.revoked(self.job_id, self.id, process)
        # A pool process that is told to exit reaches this method as SystemExit.
        elif isinstance(exception, WorkerLostError | SystemExit):
            if _is_shutting_down():
                # Whoever ends the node has told all its processes, as systemd does.
                attendant.release(self.job_id, process)
            else:
                attendant.crashed(self.job_id, process, str(exception), self._sequence)
        return handled

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """A time limit has passed; at the hard one the pool process is killed."""
        super().on_timeout(soft, timeout)
        if not soft and self._attendant is not None and self.worker_pid is not None:
            self._attendant.timed_out(self.job_id, self.worker_pid, timeout)

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """Celery ends the run, in a cold or soft shutdown: the job is given back at once."""
        super().cancel(pool, signal=signal, emit_retry=emit_retry)
        if self._attendant is not None and self.worker_pid is not None:
            # At once and in this thread: the process is about to end.
            self._attendant.release(self.job_id, self.worker_pid)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        super()._announce_revoked(reason, terminated, signum, expired)
        if self._attendant is not None:
            self._attendant.revoked(self.job_id, self.id, self.worker_pid)

    @property
    def _attendant(self) -> "Attendant | None":
        installation = installations.get(self.app)
        return None if installation is None else installation.attendant


def _is_shutting_down() -> bool:
    # None or False, or an exit code, which may be 0.
    return any(
        code is not None and code is not False
        for code in (worker_state.should_stop, worker_state.should_terminate)
    )
