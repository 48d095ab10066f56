"""What a worker's main process sees of each delivery."""

from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import WorkerLostError
from celery.worker.request import Request

from cl_ml_tools.celery_bridge.installation import installations


class JobRequest(Request):  # type: ignore[misc]  # Celery has no types
    """A delivery of a job's message: tells the keeper when the process that ran it has died."""

    @property
    def job_id(self) -> str:
        """The job that the message is about."""
        return str(self.args[0])

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Called in the main process when the task failed; a dead pool process is such a failure."""
        exception = exc_info.exception
        if isinstance(exception, ExceptionWithTraceback):
            exception = exception.exc
        handled = super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
        # A plugin's sys.exit() reaches this method as SystemExit; Celery too counts the process as lost.
        if isinstance(exception, WorkerLostError | SystemExit) and self.worker_pid is not None:
            installation = installations.get(self.app)
            if installation is not None and installation.keeper is not None:
                installation.keeper.crashed(self.job_id, self.worker_pid, str(exception))
        return handled
