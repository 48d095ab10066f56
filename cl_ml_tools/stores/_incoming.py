"""One upload on its way to disk, or another file that takes its place."""

import errno
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from cl_ml_tools.errors import StorageFullError
from cl_ml_tools.file_names import distinct_name

INCOMING_PREFIX = ".incoming-"
"""How the names of uploads begin that are not whole yet."""

CHUNK_BYTES = 1024 * 1024

TOUCH_SECONDS = 60.0
"""How often a job's directory is marked as in use while an upload comes in: the sweep takes what is old."""

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class Incoming:
    """The bytes of one upload, under a temporary name until it is kept or discarded.

    Its methods block and belong in a thread. A cancelled caller leaves its thread running, so each takes the
    lock, and nothing is written once the upload was discarded.
    """

    # Lets uploads of this process that come at once see each other's names, also in another case. Uploads of
    # other processes are met by O_EXCL, which tells equal names only.
    _naming = threading.Lock()

    def __init__(self, job_dir: Path, *, min_free_bytes: int = 0) -> None:
        self._job_dir = job_dir
        self._min_free_bytes = min_free_bytes
        self._path = job_dir / f"{INCOMING_PREFIX}{secrets.token_hex(8)}"
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._discarded = False
        self._is_link = False
        self._touch_at = time.monotonic() + TOUCH_SECONDS
        self._lock = threading.Lock()
        self.size = 0

    @property
    def sha256(self) -> str:
        """The digest of what was written so far, 64 hex digits."""
        return self._digest.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Append the chunk; ``size`` and ``sha256`` follow."""
        with self._lock, lack_of_room_told(self._job_dir):
            file, left = self._opened(), memoryview(chunk)
            check_room(self._job_dir, self._min_free_bytes, len(chunk))
            while left:
                left = left[file.write(left) :]
            self._digest.update(chunk)
            self.size += len(chunk)
            if time.monotonic() >= self._touch_at:
                os.utime(self._job_dir)
                self._touch_at = time.monotonic() + TOUCH_SECONDS

    def take_over(self, source: Path) -> None:
        """Be a file that is there already: under a second name, which costs nothing, or else as a copy.

        Raises:
            FileNotFoundError: it is not there.
            StorageFullError: there is no room for a copy.
        """
        try:
            with self._lock:
                os.link(source, self._path, follow_symlinks=False)
                self._is_link = True
                self.size = self._path.stat().st_size
        except FileNotFoundError:
            raise
        except OSError:
            # Another file system, one that has no links, too many of them, or a file of another user.
            with source.open("rb", buffering=0) as file:
                while chunk := file.read(CHUNK_BYTES):
                    self.write(chunk)

    def keep(self, name: str) -> Path:
        """Give the upload its final name, or the nearest that is free, and return its path."""
        with self._lock, lack_of_room_told(self._job_dir):
            # Some file systems tell only here that there is no room.
            if not self._is_link:
                self._opened().close()
            self._path = self._moved(self._job_dir / "input", name)
            return self._path

    def discard(self) -> None:
        """Remove what there is of the upload, also when it was kept; harmless when there is nothing."""
        with self._lock:
            self._discarded = True
            try:
                if self._file is not None:
                    self._file.close()
            finally:
                self._path.unlink(missing_ok=True)

    def _opened(self) -> BinaryIO:
        if self._discarded:
            raise RuntimeError("the upload was discarded")
        if self._file is None:
            # Unbuffered: closing then has nothing left to write, and cannot fail a second time.
            self._file = self._path.open("xb", buffering=0)
        return self._file

    def _moved(self, directory: Path, name: str) -> Path:
        """Move the file to that name, or to the nearest that is free."""
        with self._naming:
            taken = os.listdir(directory)  # noqa: PTH208 - names are wanted, not paths
            while True:
                path = directory / distinct_name(name, taken)
                try:
                    self._move_to(path)
                except FileExistsError:
                    taken.append(path.name)
                else:
                    return path

    def _move_to(self, path: Path) -> None:
        """Move the file, but not over another.

        Raises:
            FileExistsError: there is another.
        """
        try:
            # ext4 writes a file out at once that is renamed over another, be it an empty one that holds the name.
            os.link(self._path, path, follow_symlinks=False)
            finish: Callable[[], object] = self._path.unlink
        except FileExistsError:
            raise
        except OSError:
            # The file system has no links.
            path.touch(exist_ok=False)
            finish = partial(self._path.replace, path)
        try:
            finish()
        except OSError:
            path.unlink(missing_ok=True)
            raise


def check_room(directory: Path, min_free_bytes: int, size: int = 0) -> None:
    """Return if ``size`` bytes more leave room enough on the disk.

    Raises:
        StorageFullError: they do not.
    """
    if not min_free_bytes:
        return
    disk = os.statvfs(directory)
    if disk.f_bavail * disk.f_frsize - size < min_free_bytes:
        raise StorageFullError(
            f"{min_free_bytes} bytes are kept free on the disk of {directory}: free some space, or "
            f"set CL_ML_TOOLS_STORAGE_DIR to another disk"
        )


@contextmanager
def lack_of_room_told(directory: Path) -> Iterator[None]:
    """Translate an error that means a full disk or a used-up quota.

    Raises:
        StorageFullError: there is no room.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFullError(
                f"no room left for files in {directory}: free some space, or set CL_ML_TOOLS_STORAGE_DIR to "
                f"another disk ({error.strerror})"
            ) from error
        raise
