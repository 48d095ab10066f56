"""Our errors as answers of HTTP; on our own routes as problem details (RFC 9457)."""

import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Depends, HTTPException, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException as StarletteHTTPException

from cl_ml_tools.errors import (
    IdempotencyKeyReusedError,
    InvalidJobError,
    InvalidJobIdError,
    JobStateError,
    MLToolsError,
    StorageFullError,
    StoreUnavailableError,
    TooManyJobsError,
    UnknownJobError,
    UploadTooLargeError,
)

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 5

PROBLEM_TYPE = "application/problem+json"

# Where in the request the fault lies, as in FastAPI's own 422.
_UNPROCESSABLE: dict[type[MLToolsError], tuple[str, ...]] = {
    InvalidJobIdError: ("path", "job_id"),
    InvalidJobError: ("body",),
}


async def translate_errors() -> AsyncIterator[None]:
    """Turn errors of this package into answers, wherever in a route they are raised that is no `ProblemRoute`.

    Use it as `ERROR_TRANSLATION`.

    Raises:
        fastapi.HTTPException: 503 with ``Retry-After`` when the store is away, 413 for an upload over the
            limit, 507 for a full disk, 404 for an unknown job, 409 when a job's state forbids what is asked, 422
            for a job id or job that cannot be used.
    """
    try:
        yield
    except MLToolsError as error:
        answer = http_error(error)
        if answer is None:
            raise
        raise answer from error


def http_error(error: MLToolsError) -> HTTPException | None:
    """The answer that an error means; None when it means a fault of ours, which is a 500."""
    if isinstance(error, StoreUnavailableError):
        # No traceback: while the store is away each request comes here.
        logger.warning("Answered 503: %s", error)
        return HTTPException(
            503,
            f"The store of job records does not answer. Try again in {RETRY_AFTER_SECONDS} seconds.",
            {"Retry-After": str(RETRY_AFTER_SECONDS)},
        )
    if isinstance(error, StorageFullError):
        logger.error("Answered 507: the storage has no room", exc_info=error)
        return HTTPException(507, "The storage has no room for the upload.")
    if isinstance(error, UploadTooLargeError):
        return HTTPException(413, str(error))
    if isinstance(error, UnknownJobError):
        return HTTPException(404, str(error))
    if isinstance(error, JobStateError | IdempotencyKeyReusedError):
        return HTTPException(409, str(error))
    if isinstance(error, TooManyJobsError):
        return HTTPException(429, str(error), {"Retry-After": str(RETRY_AFTER_SECONDS)})
    for kind, place in _UNPROCESSABLE.items():
        if isinstance(error, kind):
            return HTTPException(422, [{"type": "value_error", "loc": place, "msg": str(error)}])
    return None


class ProblemRoute(APIRoute):
    """A route whose refusals are problem details; ``detail`` in them is what it would be without.

    An application that handles `HTTPException` or FastAPI's validation errors in its own way keeps that way. Other
    exceptions, subclasses of `HTTPException` among them, are left to the application.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler of the route."""
        handle = super().get_route_handler()

        async def handle_with_problems(request: Request) -> Response:
            try:
                return await handle(request)
            except MLToolsError as error:
                answer = http_error(error)
                if answer is None:
                    raise
                return _problem(request, answer, error)
            except RequestValidationError as error:
                return _invalid(request, error)
            except StarletteHTTPException as error:
                if type(error) not in (HTTPException, StarletteHTTPException):
                    raise
                return _problem(request, error, error)

        return handle_with_problems


async def answer_with_problem(_: Request, error: Exception) -> Response:
    """Handle `HTTPException` for a whole application: also where no route of ours was met."""
    assert isinstance(error, StarletteHTTPException)  # noqa: S101 - what it is registered for
    return problem_response(error.status_code, error.detail, error.headers)


def problem_response(status: int, detail: Any, headers: Mapping[str, str] | None = None) -> Response:
    """Problem details as an answer; ``detail`` is text, or FastAPI's list of what is wrong with a request."""
    title = HTTPStatus(status).phrase
    content = {"type": "about:blank", "title": title, "status": status, "detail": jsonable_encoder(detail)}
    return JSONResponse(content, status, headers, media_type=PROBLEM_TYPE)


def _problem(request: Request, answer: StarletteHTTPException, cause: Exception) -> Response:
    if _has_own_handler(request, StarletteHTTPException, http_exception_handler):
        raise answer from (None if answer is cause else cause)
    return problem_response(answer.status_code, answer.detail, answer.headers)


def _invalid(request: Request, error: RequestValidationError) -> Response:
    if _has_own_handler(request, RequestValidationError, request_validation_exception_handler):
        raise error
    return problem_response(422, error.errors())


def _has_own_handler(request: Request, kind: type[Exception], default: object) -> bool:
    return request.app.exception_handlers.get(kind, default) is not default


def problem_responses(
    described: Mapping[int, str], headers: Mapping[int, dict[str, str]] | None = None
) -> dict[int | str, dict[str, Any]]:
    """Describe refusals for a route's ``responses``: by status, what it means and which headers it has."""
    return {
        status: {
            "description": description,
            "content": {PROBLEM_TYPE: {"schema": _SCHEMA, "example": _example(status, description)}},
            "headers": {
                name: {"description": meaning, "schema": {"type": "string"}}
                for name, meaning in ((headers or {}).get(status) or {}).items()
            },
        }
        for status, description in described.items()
    }


def _example(status: int, description: str) -> dict[str, Any]:
    detail: Any = description
    if status == 422:
        detail = [{"type": "missing", "loc": ["body", "file"], "msg": "Field required", "input": None}]
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}


_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "Problem details, RFC 9457.",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {
            "description": "What is wrong, in words; of a 422 a list with the place and the fault of each value.",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}],
        },
    },
}

# Scope "function": it ends before the answer is sent, so an error in the midst of a stream stays what it is.
ERROR_TRANSLATION = Depends(translate_errors, scope="function")

UNAVAILABLE = problem_responses(
    {503: "The store of job records does not answer. Nothing is wrong with the request."},
    {503: {"Retry-After": "Seconds to wait."}},
)
"""What a route may answer that asks the store, for its ``responses``."""

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    **problem_responses(
        {
            400: "The body is no form that can be read.",
            408: "The body came in too slowly.",
            413: "The upload is larger than the limit.",
            422: "A value is missing or not valid.",
            429: "The user has as many unfinished jobs as one may have.",
        },
        {429: {"Retry-After": "Seconds to wait."}},
    ),
    **UNAVAILABLE,
    **problem_responses({507: "The storage has no room for the upload."}),
}
"""What an upload may be answered, for a route's ``responses``."""
