"""Names from outside: a client's file names and job ids, before they become parts of paths."""

import re
import unicodedata
from collections.abc import Iterable

from cl_ml_tools.errors import InvalidJobIdError

# File systems take 255 bytes a name; the rest is for what we and plugins put around it: prefixes, `-2`.
MAX_NAME_BYTES = 200
_MAX_EXTENSION_BYTES = 32
_FALLBACK = "upload"

_UNWANTED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_RESERVED_CHARACTERS = re.compile(r'[<>:"|?*]')
_RUNS_OF_DOTS = re.compile(r"\.{2,}")
_BAD_EDGES = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "."
# Windows opens the device whatever extension follows, and takes the superscript digits for digits too.
_DEVICE = re.compile(
    r"(?:con|prn|aux|nul|clock\$|conin\$|conout\$|(?:com|lpt)[0-9¹²³])\s*(?:\.|$)", re.IGNORECASE
)
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


def safe_file_name(name: str | None) -> str:
    """Reduce a client's file name to one that is safe in any directory, also behind a prefix.

    What comes out is a single path component of at most `MAX_NAME_BYTES` bytes in UTF-8, in Unicode form
    NFC, with its extension. It has no control or invisible formatting characters, none that Windows
    reserves and no ``..``; it names no device, is not hidden, and does not end in a dot or a space. A safe
    name stays as it is. What has nothing left is called ``upload``.
    """
    last = re.split(r"[/\\]", name or "")[-1]
    # NFC comes last too: dropping a character can make neighbours that compose.
    visible = "".join(c for c in last if unicodedata.category(c) not in _UNWANTED_CATEGORIES)
    plain = _RUNS_OF_DOTS.sub(".", _RESERVED_CHARACTERS.sub("_", _nfc(visible)))
    short = _shortened(_not_a_device(plain.strip(_BAD_EDGES)))
    # Cutting can lay a device's name bare again.
    return _not_a_device(short) or _FALLBACK


def distinct_name(name: str, taken: Iterable[str]) -> str:
    """Return ``name``, or with a number in it (``photo-2.png``) when it is among ``taken``.

    Names that differ only in upper and lower case count as equal, since some file systems hold them so.

    Args:
        name: a safe file name.
        taken: the names that the answer must differ from.
    """
    return _numbered(name, {_folded(other) for other in taken}, 1)[0]


def distinct_names(names: Iterable[str | None]) -> list[str]:
    """The names made safe, each unlike those before it: ``photo.png``, ``photo-2.png``."""
    distinct: list[str] = []
    occupied: set[str] = set()
    numbers: dict[str, int] = {}
    for name in map(safe_file_name, names):
        # What was taken stays taken: the search goes on where it ended for the same name.
        numbered, numbers[name] = _numbered(name, occupied, numbers.get(name, 1))
        distinct.append(numbered)
        occupied.add(_folded(numbered))
    return distinct


def check_job_id(job_id: str) -> str:
    """Return ``job_id`` when it can be a directory's name and a part of a key as it stands.

    Raises:
        InvalidJobIdError: it is not 1 to 128 letters, digits, ``-`` and ``_``.
    """
    if not isinstance(job_id, str) or not _JOB_ID.fullmatch(job_id):
        raise InvalidJobIdError(
            f"{job_id!r:.150} is no job id: use 1 to 128 of the characters A-Z, a-z, 0-9, '-' and '_'"
        )
    return job_id


def _numbered(name: str, occupied: set[str], number: int) -> tuple[str, int]:
    """The name with the first number, from ``number`` on, that makes it no one's, and that number; 1 is not written."""
    distinct = name if number == 1 else _shortened(name, f"-{number}")
    while _folded(distinct) in occupied:
        number += 1
        distinct = _shortened(name, f"-{number}")
    return distinct, number


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _folded(name: str) -> str:
    return _nfc(_nfc(name).casefold())


def _not_a_device(name: str) -> str:
    return f"_{name}" if _DEVICE.match(name) else name


def _shortened(name: str, suffix: str = "") -> str:
    """The name with ``suffix`` behind its stem, cut in the stem where it would be too long."""
    dot = name.rfind(".")
    stem, extension = (name[:dot], name[dot:]) if dot > 0 else (name, "")
    if len(extension.encode()) > _MAX_EXTENSION_BYTES:
        stem, extension = name, ""
    room = MAX_NAME_BYTES - len(f"{suffix}{extension}".encode())
    encoded = stem.encode()
    if len(encoded) > room:
        end = len(encoded[:room].decode(errors="ignore"))
        # A mark belongs to the letter before it: do not part them.
        while end and unicodedata.category(stem[end]).startswith("M"):
            end -= 1
        stem = stem[:end].strip(_BAD_EDGES) or _FALLBACK
    return f"{stem}{suffix}{extension}"
