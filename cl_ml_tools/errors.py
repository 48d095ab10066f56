"""Every error that this package raises, as one tree, and how any error is told."""

from collections.abc import Sequence


def cause_of(error: BaseException) -> str:
    """What an error is and says, as messages tell it."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class MLToolsError(Exception):
    """The root of all errors raised by cl_ml_tools."""


class SettingsError(MLToolsError, ValueError):
    """A setting cannot be used as it is; the message names its environment variable."""


class PluginLoadError(MLToolsError, RuntimeError):
    """A plugin could not be loaded; the message names the plugin, its distribution and the cause."""


class StoreUnavailableError(MLToolsError):
    """The store of job records did not answer in time, or refused the connection.

    What was asked may or may not have been done.
    """


class StoreNotAskedError(StoreUnavailableError):
    """The store could not even be asked: nothing was done."""


class StoreMismatchError(MLToolsError):
    """The store's prefix belongs to another broker, or holds records of another format."""


class StorageMismatchError(MLToolsError, RuntimeError):
    """The storage is not the one that the files of the record's jobs are in."""


class StorageUnusableError(StorageMismatchError):
    """This process cannot read and write its storage."""


class SubmissionTooLateError(StoreUnavailableError):
    """A record was refused because its deadline had passed; nothing was stored."""


class DuplicateJobError(MLToolsError, ValueError):
    """There are jobs with some of the ids already.

    Attributes:
        job_ids: those ids, as far as they are known.
    """

    def __init__(self, message: str, job_ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.job_ids = tuple(job_ids)


class RepeatedSubmissionError(MLToolsError):
    """The same job was submitted before under this idempotency key.

    Attributes:
        job_id: the id of the job from then.
    """

    def __init__(self, job_id: str) -> None:
        super().__init__(f"this was submitted before, as job {job_id!r}")
        self.job_id = job_id


class IdempotencyKeyReusedError(MLToolsError, ValueError):
    """An idempotency key was used before for something else."""


class TooManyJobsError(MLToolsError):
    """The user has as many unfinished jobs as one may have."""


class UnknownJobError(MLToolsError, LookupError):
    """There is no such job."""


class JobStateError(MLToolsError):
    """What is asked cannot be done to a job in its state; the message says which."""


class InvalidJobIdError(MLToolsError, ValueError):
    """A job id is not a plain id (letters, digits, ``-`` and ``_``; 1 to 128 characters)."""


class InvalidJobError(MLToolsError, ValueError):
    """A job cannot be stored as it is; the message names the field."""


class UploadTooLargeError(MLToolsError):
    """An upload is larger than the limit; nothing of it was kept.

    Attributes:
        filename: the client's name of the file.
        max_bytes: the limit that it passed.
    """

    def __init__(self, filename: str, max_bytes: int) -> None:
        super().__init__(f"{filename!r} is larger than the limit of {max_bytes} bytes")
        self.filename = filename
        self.max_bytes = max_bytes


class StorageFullError(MLToolsError):
    """The storage of files has no room, or the quota is used up; nothing of the upload was kept."""


class BadInputError(MLToolsError, ValueError):
    """An input file cannot be processed; the message names the file and says why. Never worth another try."""


class EmbeddedRedisError(MLToolsError, RuntimeError):
    """No embedded Redis server could be started; the message says what to install or set."""


class DemoError(MLToolsError):
    """The demo, or what it started, failed; the message names the part and says what to do, or shows its log."""


class JobStopped(BaseException):
    """A run must stop: its job was cancelled, or another process has taken it over.

    Raised from the progress callback of a running plugin. It is no ``Exception``, so that a plugin's own
    ``except Exception`` does not swallow it.
    """
