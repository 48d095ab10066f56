"""The contract of a storage of files."""

from collections.abc import Mapping
from dataclasses import dataclass
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


class ReusedFile(TypedDict):
    """What is known of an output that has become an input.

    Keys:
        filename: the name it has among the inputs.
        path: its absolute path.
        size: bytes.
    """

    filename: str
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """How much one upload may be.

    Attributes:
        max_files: how many files.
        max_request_bytes: the whole request; None for any.
        max_unfinished_jobs: how many jobs of one user may be queued or running when another comes; 0 for any.
    """

    max_files: int = 100
    max_request_bytes: int | None = None
    max_unfinished_jobs: int = 0


@runtime_checkable
class LimitsUploads(Protocol):
    """A storage that says how much it takes in one upload, and takes uploads as streams.

    The ``file`` that its `FileStorage.save_input_file` gets may have nothing but ``async read(size)``, which can be
    read once; another storage gets a whole ``UploadFile``.
    """

    @property
    def upload_limits(self) -> UploadLimits:
        """The limits; read once."""
        ...


def limits_of_uploads(storage: object) -> UploadLimits:
    """What a storage takes in one upload; the defaults when it does not say."""
    return storage.upload_limits if isinstance(storage, LimitsUploads) else UploadLimits()


@runtime_checkable
class TellsRoom(Protocol):
    """A storage that knows whether it takes uploads now."""

    def check_takes_uploads(self) -> None:
        """Return if it does.

        Raises:
            StorageFullError: there is no room.
            OSError: files cannot be made.
        """
        ...


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


@runtime_checkable
class ReusesOutputs(Protocol):
    """A storage that makes an output of one job an input of another without sending its bytes through the master.

    With any other storage the output is read, and saved as an upload is.
    """

    def reuse_output(self, job_id: str, source_job_id: str, name: str) -> ReusedFile:
        """Make an output an input of another job, whole or not at all; it stays when its own job is removed.

        Args:
            job_id: whose input it becomes.
            source_job_id: whose output it is.
            name: the output's path below the directory of the outputs, with ``/``.

        Raises:
            FileNotFoundError: there is no such output.
            StorageFullError: it had to be copied, and there is no room.
        """
        ...
