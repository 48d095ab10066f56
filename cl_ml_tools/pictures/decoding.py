"""What decoders and encoders raise on bad pictures, as the error that names the file."""

import errno
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from cl_ml_tools.errors import BadInputError
from cl_ml_tools.pictures.formats import FORMATS
from cl_ml_tools.pictures.limits import picture_limits

# Named one by one: a time limit that strikes in the midst is an Exception too, and none of these.
_RAISED_BY_CODECS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

# The encoders of WebP (by number) and AVIF say it so.
_OUT_OF_MEMORY = re.compile(r"encoding error [12]$|out of memory", re.IGNORECASE)


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn what a decoder raises within into `BadInputError`; what the system raises goes up as it is.

    Args:
        name: the file's name, for the message.
    """
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow looks at the size before we can.
        raise BadInputError(
            f"{name} has too many pixels; the limit is {picture_limits().pixels} in all"
        ) from error
    except UnidentifiedImageError as error:
        # Pillow's message has the whole path, which is nothing for a client.
        raise BadInputError(
            f"{name} is no picture in a format that is read. Send {', '.join(FORMATS)}."
        ) from error
    except _RAISED_BY_CODECS as error:
        if isinstance(error, BadInputError) or _is_of_the_system(error):
            raise
        raise BadInputError(f"{name} cannot be decoded; is it damaged? {error}") from error


@contextmanager
def encoding(name: str, picture_format: str) -> Iterator[None]:
    """Turn what an encoder raises within, because the format cannot hold the picture, into `BadInputError`.

    Args:
        name: the file's name, for the message.
        picture_format: that of the file.

    Raises:
        BadInputError: the format cannot hold the picture.
        MemoryError: there is not enough of it.
    """
    try:
        yield
    except (OSError, ValueError, OverflowError, RuntimeError, struct.error) as error:
        if isinstance(error, BadInputError) or _is_of_the_system(error):
            raise
        if _OUT_OF_MEMORY.search(str(error)):
            raise MemoryError(f"{name} cannot be written as {picture_format}: not enough memory") from error
        raise BadInputError(f"{name} cannot be written as {picture_format}: {error}") from error


def _is_of_the_system(error: Exception) -> bool:
    # Pillow's own OSErrors have no errno; a damaged offset makes it seek to where no file can be.
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, errno.EOVERFLOW)
