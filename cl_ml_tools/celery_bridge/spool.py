"""Outcomes that wait for a store that is away, beside the process that has them.

A pool process that waits may be killed meanwhile: its time limit counts the wait, or the node is shut down.
Its main process then finds the outcome here, and stores it instead of counting a crash or a timeout.
"""

import json
import os
import secrets
import tempfile
from pathlib import Path

from cl_ml_tools.common.job_leases import Claim, Outcome
from cl_ml_tools.common.schemas import JobStatus

SPOOL_VARIABLE = "_CL_ML_TOOLS_SPOOL"
"""Carries the spool's directory from a worker's main process to its pool processes."""


class OutcomeSpool:
    """A directory of one node with a file for each waiting outcome; it is there only while one waits."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    def of_this_node(cls) -> "OutcomeSpool":
        """The spool that this node's main process has made."""
        return cls(Path(os.environ[SPOOL_VARIABLE]))

    @classmethod
    def create(cls) -> "OutcomeSpool":
        """A new spool, made known to the processes that this one starts."""
        directory = Path(tempfile.gettempdir()) / f"cl_ml_tools-outcomes-{secrets.token_hex(8)}"
        os.environ[SPOOL_VARIABLE] = str(directory)
        return cls(directory)

    def put(self, claim: Claim, outcome: Outcome) -> None:
        """Keep an outcome."""
        # Private: who can write here decides outcomes.
        self._directory.mkdir(mode=0o700, exist_ok=True)
        path = self._path(claim.job.job_id)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(
            json.dumps([claim.token, outcome.status, outcome.task_output, outcome.error_message])
        )
        partial.replace(path)

    def get(self, job_id: str) -> tuple[str, Outcome] | None:
        """The token and the outcome that wait for a job, or None."""
        try:
            token, status, task_output, error_message = json.loads(self._path(job_id).read_text())
        except FileNotFoundError:
            return None
        return token, Outcome(JobStatus(status), task_output, error_message)

    def remove(self, job_id: str) -> None:
        """Forget a job's outcome; harmless when there is none."""
        self._path(job_id).unlink(missing_ok=True)
        try:
            self._directory.rmdir()
        except OSError:  # others wait in it, or it is gone
            return

    def _path(self, job_id: str) -> Path:
        return self._directory / f"{job_id}.json"
