"""Our errors as answers of HTTP."""

import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Depends, HTTPException

from cl_ml_tools.errors import (
    InvalidFileNameError,
    InvalidJobError,
    InvalidJobIdError,
    MLToolsError,
    StorageFullError,
    StoreUnavailableError,
    UploadTooLargeError,
)

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 5

# Where in the request the fault lies, as in FastAPI's own 422.
_UNPROCESSABLE: dict[type[MLToolsError], tuple[str, ...]] = {
    InvalidFileNameError: ("body", "file"),
    InvalidJobIdError: ("path", "job_id"),
    InvalidJobError: ("body",),
}


async def translate_errors() -> AsyncIterator[None]:
    """Turn errors of this package into answers, wherever in a route they are raised.

    Use it as `ERROR_TRANSLATION`. However often a route has it, it acts once.

    Raises:
        fastapi.HTTPException: 503 with ``Retry-After`` when the store is away, 413 for an upload over the
            limit, 507 for a full disk, 422 for a job id, file name or job that cannot be used.
    """
    try:
        yield
    except StoreUnavailableError as error:
        logger.exception("Answered 503: the store of job records is not available")
        raise HTTPException(
            503,
            f"The store of job records does not answer. Try again in {RETRY_AFTER_SECONDS} seconds.",
            {"Retry-After": str(RETRY_AFTER_SECONDS)},
        ) from error
    except UploadTooLargeError as error:
        raise HTTPException(413, str(error)) from error
    except StorageFullError as error:
        logger.exception("Answered 507: the storage has no room")
        raise HTTPException(507, "The storage has no room for the upload.") from error
    except tuple(_UNPROCESSABLE) as error:
        place = next(place for kind, place in _UNPROCESSABLE.items() if isinstance(error, kind))
        raise HTTPException(422, [{"type": "value_error", "loc": place, "msg": str(error)}]) from error


# Scope "function": it ends before the answer is sent, so an error in the midst of a stream stays what it is.
ERROR_TRANSLATION = Depends(translate_errors, scope="function")

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    413: {"description": "The upload is larger than the limit."},
    503: {
        "description": "The store of job records does not answer. Nothing is wrong with the request.",
        "headers": {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}},
    },
    507: {"description": "The storage has no room for the upload."},
}
"""What `ERROR_TRANSLATION` may answer to an upload, for a route's ``responses``."""
