"""The contract of a storage of files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypedDict, runtime_checkable

ATTEMPT_PREFIX = ".attempt-"
"""How the names of the directories begin that attempts write to; they lie beside the outputs."""


class SavedFile(TypedDict):
    """What is known of a saved upload.

    Keys:
        filename: the name it was saved under.
        path: its absolute path.
        size: bytes.
        hash: SHA-256, 64 hex digits.
    """

    filename: str
    path: str
    size: int
    hash: str


@runtime_checkable
class FileStorage(Protocol):
    """Keeps the inputs and outputs of jobs, a directory for each job."""

    def create_job_directory(self, job_id: str) -> Path:
        """Make the directories of a job; harmless when they exist. Returns the job's directory."""
        ...

    def get_input_path(self, job_id: str) -> Path:
        """The directory of the job's inputs."""
        ...

    def get_output_path(self, job_id: str) -> Path:
        """The directory of the job's outputs."""
        ...

    async def save_input_file(self, job_id: str, filename: str, file: Any) -> Mapping[str, object]:
        """Save an upload among the job's inputs; returns the keys of `SavedFile`.

        Args:
            job_id: whose input it is.
            filename: the client's name of it, not to be trusted.
            file: has ``async read(size)``, as FastAPI's ``UploadFile``.
        """
        ...

    def cleanup_job(self, job_id: str) -> bool:
        """Remove the job's directory and all in it; False when there is none."""
        ...
