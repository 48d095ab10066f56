"""Which storage's files are of which record's jobs: each of the two knows the other.

Without that, a node whose share is not mounted would fail every job that it takes, and a worker on another Redis, or on
one that was emptied, would remove the files of all jobs as nobody's.
"""

import time
from pathlib import Path
from typing import Protocol, runtime_checkable

from cl_ml_tools.errors import StorageMismatchError, StorageUnusableError

WRITTEN_SECONDS = 2.0
"""How long a mark that is still empty is waited for: another process writes it."""


@runtime_checkable
class TiedStorage(Protocol):
    """A storage that can say whose its files are."""

    @property
    def record_mark(self) -> Path:
        """The file that names the record whose jobs the files are of."""
        ...

    def check_writable(self) -> None:
        """Return if files can be made here.

        Raises:
            OSError: they cannot.
        """
        ...


class TiedRecord(Protocol):
    """A record of jobs that can say which storage is its own."""

    def identity(self) -> str:
        """A name that this record alone has, for as long as it lasts."""
        ...

    def has_storage(self) -> bool:
        """Whether a storage has been tied to it."""
        ...

    def note_storage(self) -> None:
        """From now on it has one."""
        ...


def check_storage(storage: object, record: TiedRecord) -> str:
    """Tie a storage and a record that nothing was tied to before; any others have to belong together.

    A storage that is no `TiedStorage` is taken as it is.

    Returns:
        An empty text when they do. Else, for a new record beside a storage that has files of another one: what to
        tell the operator. Jobs may be run there, and no file may be removed.

    Raises:
        StorageUnusableError: the storage cannot be read and written.
        StorageMismatchError: the record has another one; the message says what to do.
        StoreUnavailableError: the record does not answer.
    """
    if not isinstance(storage, TiedStorage):
        return ""
    identity, has_storage, mark = record.identity(), record.has_storage(), storage.record_mark
    where = mark.parent
    try:
        storage.check_writable()
        told = _read(mark)
        if told is None and not has_storage:
            told = _write(mark, identity)
    except OSError as error:
        raise StorageUnusableError(
            f"The storage {where} cannot be used by this process ({error}). Every process of an installation has to "
            "read and write it (CL_ML_TOOLS_STORAGE_DIR)."
        ) from error
    if told == identity:
        if not has_storage:
            record.note_storage()
        return ""
    if has_storage:
        raise StorageMismatchError(
            f"{where} is not the storage that the files of these jobs are in. Is the share mounted, and does "
            f"CL_ML_TOOLS_STORAGE_DIR name it? If it is a new one, say so: echo {identity} > {mark}"
        )
    return (
        f"The files in {where} belong to another record of jobs (another Redis, another CL_ML_TOOLS_KEY_PREFIX, or a "
        "Redis that was emptied), so none of them is removed. Give each installation a storage of its own "
        "(CL_ML_TOOLS_STORAGE_DIR). If the other record is gone, and files of jobs that are unknown here may go too, "
        f"say so: echo {identity} > {mark}"
    )


def _write(mark: Path, identity: str) -> str | None:
    """What the mark says, which is this when it said nothing."""
    try:
        with mark.open("x", encoding="utf-8") as file:
            file.write(identity)
    except FileExistsError:
        return _read(mark)
    return identity


def _read(mark: Path) -> str | None:
    """What the mark says, or None when there is none."""
    end = time.monotonic() + WRITTEN_SECONDS
    while True:
        try:
            told = mark.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        if told or time.monotonic() > end:
            return told
        time.sleep(0.02)
