"""Files of jobs in a directory that the master and the workers share."""

import asyncio
import inspect
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cl_ml_tools.common.file_storage import ATTEMPT_PREFIX, ReusedFile, SavedFile, UploadLimits
from cl_ml_tools.errors import InvalidJobIdError, UploadTooLargeError
from cl_ml_tools.file_names import check_job_id, safe_file_name
from cl_ml_tools.output_files import find_output
from cl_ml_tools.stores._incoming import (
    CHUNK_BYTES,
    INCOMING_PREFIX,
    Incoming,
    check_room,
    lack_of_room_told,
)

logger = logging.getLogger(__name__)

_DOOMED_PREFIX = ".removing-"
_PROBE_PREFIX = ".probe-"
_T = TypeVar("_T")


class LocalFileStorage:
    """Keeps a job's files in ``<base>/jobs/<job_id>/input`` and ``output``; a `FileStorage`.

    All paths are absolute. Any number of processes may use one base directory at once. Every method raises
    `cl_ml_tools.errors.InvalidJobIdError` when the job id is not a plain id.
    """

    def __init__(
        self,
        base_dir: str | os.PathLike[str],
        *,
        max_file_bytes: int | None = None,
        min_free_bytes: int = 0,
        upload_limits: UploadLimits | None = None,
    ) -> None:
        """Make the base directory if need be.

        Args:
            base_dir: where the files are kept; a relative path is resolved now.
            max_file_bytes: the largest upload that is accepted; None accepts all.
            min_free_bytes: an upload that would leave less room on the disk is refused.
            upload_limits: what one upload may be, for who receives it.
        """
        self.base_dir = Path(base_dir).expanduser().resolve()
        self.base_dir.mkdir(parents=True, exist_ok=True)
        self.max_file_bytes = max_file_bytes
        self.min_free_bytes = min_free_bytes
        self.upload_limits = upload_limits or UploadLimits()

    def create_job_directory(self, job_id: str) -> Path:
        """Make the directories of a job; harmless when they exist. Returns the job's directory.

        Raises:
            StorageFullError: the disk or the quota is full.
        """
        directory = self._job_dir(job_id)
        with lack_of_room_told(directory):
            (directory / "input").mkdir(parents=True, exist_ok=True)
            (directory / "output").mkdir(exist_ok=True)
        return directory

    def get_input_path(self, job_id: str) -> Path:
        """The directory of the job's inputs, whether it exists or not."""
        return self._job_dir(job_id) / "input"

    def get_output_path(self, job_id: str) -> Path:
        """The directory of the job's outputs, whether it exists or not."""
        return self._job_dir(job_id) / "output"

    async def save_input_file(self, job_id: str, filename: str | None, file: Any) -> SavedFile:
        """Save an upload among the job's inputs, whole or not at all.

        Memory stays at about one chunk of 1 MiB, and the event loop is free while the disk is busy. The name
        is made safe, and gets a number when the job has an input of that name already. The job's directories
        are made if need be.

        Args:
            job_id: whose input it is.
            filename: the client's name of it, not to be trusted.
            file: has ``read(size)``: asynchronous, as FastAPI's ``UploadFile``, or plain, as an open file,
                which is then read in a thread.

        Raises:
            UploadTooLargeError: it is larger than ``max_file_bytes``.
            StorageFullError: the disk or the quota is full.
        """
        incoming = Incoming(self._job_dir(job_id), min_free_bytes=self.min_free_bytes)
        name = safe_file_name(filename)
        try:
            path: Path | None = None
            while path is None:
                chunk = await _read(file)
                if self.max_file_bytes is not None and incoming.size + len(chunk) > self.max_file_bytes:
                    raise UploadTooLargeError(filename or "", self.max_file_bytes)
                # A switch of threads costs as much as a small file, so a source that knows its end saves one.
                is_last = not chunk or getattr(file, "is_at_end", False) is True
                path = await _in_thread(
                    partial(self._write, incoming, job_id, chunk, name if is_last else None)
                )
        except BaseException:
            # Shielded, so that a second cancel does not take it out of the thread pool's queue.
            await asyncio.shield(_in_thread(incoming.discard))
            raise
        return SavedFile(filename=path.name, path=str(path), size=incoming.size, hash=incoming.sha256)

    def _write(self, incoming: Incoming, job_id: str, chunk: bytes, name: str | None) -> Path | None:
        """Write a chunk; behind the last one give the file its name, and return its path."""
        if incoming.size == 0 and not self.get_input_path(job_id).is_dir():
            self.create_job_directory(job_id)
        if chunk:
            incoming.write(chunk)
        return None if name is None else incoming.keep(name)

    def reuse_output(self, job_id: str, source_job_id: str, name: str) -> ReusedFile:
        """Make an output of one job an input of another, whole or not at all.

        It becomes a hard link: no byte is written, and it stays when either job is removed. Where there can be no
        link it is copied. The job's directories are made if need be.

        Args:
            job_id: whose input it becomes.
            source_job_id: whose output it is.
            name: the output's path below the directory of the outputs, with ``/``.

        Raises:
            FileNotFoundError: there is no such output.
            StorageFullError: it had to be copied, and the disk or the quota is full.
        """
        source = find_output(self.get_output_path(source_job_id), name)
        if source is None:
            raise FileNotFoundError(f"job {source_job_id} has no output {name!r}")
        self.create_job_directory(job_id)
        incoming = Incoming(self._job_dir(job_id), min_free_bytes=self.min_free_bytes)
        try:
            incoming.take_over(source.path)
            path = incoming.keep(safe_file_name(name))
        except BaseException:
            incoming.discard()
            raise
        return ReusedFile(filename=path.name, path=str(path), size=incoming.size)

    def cleanup_job(self, job_id: str) -> bool:
        """Remove the job's directory and all in it; False when there is none.

        Of two callers at once one gets True. Symbolic links are removed, never followed. When something
        cannot be removed the error is raised, and another call goes on with what is left.
        """
        directory = self._job_dir(job_id)
        # Job ids have no dots, so this is no job's directory.
        doomed = directory.with_name(f"{_DOOMED_PREFIX}{secrets.token_hex(8)}")
        try:
            directory.rename(doomed)
        except FileNotFoundError:
            return False
        try:
            if doomed.is_symlink():
                doomed.unlink()
            else:
                shutil.rmtree(doomed)
        except OSError:
            doomed.rename(directory)
            raise
        return True

    @property
    def record_mark(self) -> Path:
        """The file that names the record of jobs whose files these are."""
        return self.base_dir / ".record"

    def check_takes_uploads(self) -> None:
        """See `cl_ml_tools.common.file_storage.TellsRoom.check_takes_uploads`."""
        check_room(self.base_dir, self.min_free_bytes)
        with lack_of_room_told(self.base_dir):
            self.check_writable()

    def check_writable(self) -> None:
        """Return if files can be made here.

        Raises:
            OSError: they cannot.
        """
        probe = self.base_dir / f"{_PROBE_PREFIX}{secrets.token_hex(8)}"
        try:
            probe.touch(exist_ok=False)
        finally:
            probe.unlink(missing_ok=True)

    def old_jobs(self, min_age_seconds: float) -> Iterator[str]:
        """The ids of jobs whose directory has not changed for so long. Reads step by step."""
        newest = self._now() - min_age_seconds
        try:
            entries = os.scandir(self.base_dir / "jobs")
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                with suppress(FileNotFoundError, InvalidJobIdError):
                    if entry.stat(follow_symlinks=False).st_mtime <= newest:
                        yield check_job_id(entry.name)

    def remove_doomed(self, min_age_seconds: float) -> int:
        """Remove what a killed `cleanup_job` has left, when it has not changed for so long; says how many."""
        newest = self._now() - min_age_seconds
        removed = 0
        for path in (self.base_dir / "jobs").glob(f"{_DOOMED_PREFIX}*"):
            try:
                removed += _remove_old(path, newest)
            except OSError:
                logger.exception("what is left of a removed job cannot be removed: %s", path)
        return removed

    def remove_leftovers(self, job_id: str, min_age_seconds: float) -> int:
        """Remove directories of attempts and partial uploads that have not changed for so long; says how many."""
        newest = self._now() - min_age_seconds
        directory = self._job_dir(job_id)
        left = [*directory.glob(f"output/{ATTEMPT_PREFIX}*"), *directory.glob(f"{INCOMING_PREFIX}*")]
        return sum(_remove_old(path, newest) for path in left)

    def _now(self) -> float:
        """The time of day by the clock that stamps the files: on a share its server's, whatever this host's says."""
        os.utime(self.base_dir)
        return self.base_dir.stat().st_mtime

    def _job_dir(self, job_id: str) -> Path:
        return self.base_dir / "jobs" / check_job_id(job_id)


def _remove_old(path: Path, newest: float) -> bool:
    """Remove what has not changed since ``newest``, of a link the link; says whether there was something to remove."""
    try:
        if path.lstat().st_mtime > newest:
            return False
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return False
    return True


async def _read(file: Any) -> bytes:
    """The file's next chunk; empty at its end."""
    chunk: bytes
    if inspect.iscoroutinefunction(file.read):
        chunk = await file.read(CHUNK_BYTES)
        return chunk
    answer = await _in_thread(partial(file.read, CHUNK_BYTES))
    # A wrapper's plain method may hand out the awaitable of what it wraps.
    chunk = await answer if inspect.isawaitable(answer) else answer
    return chunk


def _in_thread(act: Callable[[], _T]) -> "asyncio.Future[_T]":
    return asyncio.get_running_loop().run_in_executor(None, act)
