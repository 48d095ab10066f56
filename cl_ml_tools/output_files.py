"""The outputs of a job on disk: listing them, reading them, and all of them as one zip."""

import hashlib
import mimetypes
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from cl_ml_tools.common.file_storage import ATTEMPT_PREFIX

CHUNK_BYTES = 256 * 1024

_types = mimetypes.MimeTypes()
# What Python 3.11's own table lacks.
for _extension, _type in (
    (".webp", "image/webp"),
    (".avif", "image/avif"),
    (".m3u8", "application/x-mpegurl"),
):
    _types.add_type(_type, _extension)


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A regular file among a job's outputs.

    Attributes:
        name: its path below the directory of the outputs, with ``/``.
        path: where it is.
        size: bytes.
        modified_ns: when it was written, nanoseconds since 1970.
    """

    name: str
    path: Path
    size: int
    modified_ns: int

    @property
    def media_type(self) -> str:
        """Its type, by its name."""
        return _types.guess_type(self.name)[0] or "application/octet-stream"


def list_outputs(folder: Path) -> list[OutputFile]:
    """The files below ``folder``, by name. Neither links nor what attempts have left are among them."""
    found: list[OutputFile] = []
    for directory, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(ATTEMPT_PREFIX)]
        for name in names:
            path = Path(directory, name)
            file = _output(path.relative_to(folder).as_posix(), path)
            if file is not None:
                found.append(file)
    return sorted(found, key=lambda file: file.name)


def find_output(folder: Path, name: str) -> OutputFile | None:
    """The file of that name below ``folder``; None when there is none, or the name leads elsewhere."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part or part.startswith(ATTEMPT_PREFIX) for part in parts):
        return None
    path = folder.resolve().joinpath(*parts)
    try:
        # A link on the way would lead to other files than the job's.
        return _output(name, path) if path.resolve() == path else None
    except OSError:
        return None


def _output(name: str, path: Path) -> OutputFile | None:
    try:
        name.encode()
        found = path.lstat()
    except (OSError, UnicodeEncodeError):
        # Removed meanwhile, or a name that no answer could carry.
        return None
    return OutputFile(name, path, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def file_sha256(file: OutputFile) -> str:
    """The SHA-256 of a file, 64 hex digits. Reads the file, unless it was asked for lately and is not written anew."""
    return _sha256(str(file.path), file.size, file.modified_ns)


# An entry takes about 0.6 kB, also when its job is long removed.
@lru_cache(maxsize=2048)
def _sha256(path: str, size: int, modified_ns: int) -> str:
    with Path(path).open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def zip_chunks(files: Sequence[OutputFile]) -> Iterator[bytes]:
    """A zip archive of ``files`` piece by piece, never whole in memory or on disk; they are not compressed again."""
    sink = _Sink()
    with ZipFile(sink, "w", ZIP_STORED) as archive:
        for file in files:
            info = ZipInfo(file.name, _zip_time(file.modified_ns))
            with file.path.open("rb") as source, archive.open(info, "w", force_zip64=True) as entry:
                while chunk := source.read(CHUNK_BYTES):
                    entry.write(chunk)
                    yield sink.taken()
    yield sink.taken()


def _zip_time(modified_ns: int) -> tuple[int, int, int, int, int, int]:
    year, month, day, hour, minute, second = time.gmtime(modified_ns // 1_000_000_000)[:6]
    # All that a zip can say.
    return (year, month, day, hour, minute, second) if 1980 <= year <= 2107 else (1980, 1, 1, 0, 0, 0)


class _Sink:
    """Where a `ZipFile` writes what is taken from here."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._written.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""

    def taken(self) -> bytes:
        data, self._written = b"".join(self._written), []
        return data
