"""What waits for a store that is away, beside the process that has it.

A pool process that waits may be killed meanwhile: its time limit counts the wait, or the node is shut down.
Its main process then finds here what it had done, and does not count a crash or a timeout. It stores the outcome;
of a run that had still to confirm its claim, and so not moved its outputs, it gives the job back.
"""

import json
import logging
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from cl_ml_tools.celery_bridge.handed_down import hand_down, handed_down
from cl_ml_tools.common.job_leases import Claim, Outcome
from cl_ml_tools.common.schemas import JobStatus

logger = logging.getLogger(__name__)

_TRIES = 10

SPOOL_VARIABLE = "_CL_ML_TOOLS_SPOOL"
"""Carries the spool's directory from a worker's main process to its pool processes."""


class OutcomeSpool:
    """A directory of one node with a file for each run that waits; it is there only while one does."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    def of_this_node(cls) -> "OutcomeSpool":
        """The spool that this node's main process has made."""
        return cls(Path(handed_down(SPOOL_VARIABLE)))

    @classmethod
    def create(cls) -> "OutcomeSpool":
        """A new spool, made known to the processes that this one starts."""
        directory = Path(tempfile.gettempdir()) / f"cl_ml_tools-outcomes-{secrets.token_hex(8)}"
        hand_down(SPOOL_VARIABLE, str(directory))
        return cls(directory)

    def put(self, claim: Claim, outcome: Outcome | None) -> None:
        """Note that a run waits, with its outcome, or with None as long as it has to confirm its claim.

        A note that cannot be written is logged: the run waits all the same, and only counts as crashed when its process
        is killed meanwhile.
        """
        fields = outcome and (outcome.status, outcome.task_output, outcome.error_message)
        text = json.dumps([claim.token, fields])
        for left in reversed(range(_TRIES)):
            try:
                self._write(claim.job.job_id, text)
            except OSError as error:
                # Another process may remove the directory, which was empty.
                if left and isinstance(error, FileNotFoundError | FileExistsError):
                    continue
                message = "job %s waits for the store, which cannot be noted"
                logger.warning(message, claim.job.job_id, exc_info=True)
            return

    def _write(self, job_id: str, text: str) -> None:
        # Private: who can write here decides outcomes.
        self._directory.mkdir(mode=0o700, exist_ok=True)
        path = self._path(job_id)
        partial = path.with_suffix(f".{os.getpid()}")
        try:
            partial.write_text(text)
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise

    def get(self, job_id: str) -> tuple[str, Outcome | None] | None:
        """The token of the job's run that waits, and what was put with it; None when none waits."""
        try:
            token, fields = json.loads(self._path(job_id).read_text())
        except FileNotFoundError:
            return None
        if fields is None:
            return token, None
        status, task_output, error_message = fields
        return token, Outcome(JobStatus(status), task_output, error_message)

    def remove(self, job_id: str) -> None:
        """Forget a job's run; harmless when none waits."""
        self._path(job_id).unlink(missing_ok=True)
        try:
            self._directory.rmdir()
        except OSError:  # others wait in it, or it is gone
            return

    def _path(self, job_id: str) -> Path:
        return self._directory / f"{job_id}.json"
