"""Uploads that go to the storage while they arrive.

FastAPI reads the whole body before anything else of a route runs, and spools files. On an `UploadRoute` it is given
an empty form instead; a dependency, which runs when the user is known, reads the body, saves the files and fills the
form, and then FastAPI takes the fields from it as ever.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any
from uuid import uuid4

from fastapi import Depends, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.requests import ClientDisconnect

from cl_ml_tools.common.file_storage import FileStorage, LimitsUploads, UploadLimits
from cl_ml_tools.common.job_control import CountsUnfinishedJobs
from cl_ml_tools.common.job_repository import JobRepository
from cl_ml_tools.common.schemas import BaseJobParams
from cl_ml_tools.errors import TooManyJobsError
from cl_ml_tools.file_names import distinct_name, safe_file_name
from cl_ml_tools.http_errors import ProblemRoute
from cl_ml_tools.multipart_stream import MultipartError, MultipartStream, Part, decoded
from cl_ml_tools.submission.accepting import discard
from cl_ml_tools.submission.asking import ask, creator_of
from cl_ml_tools.upload_form import early_faults, too_many_files

MAX_FIELD_BYTES = 1_000_000
"""What all fields of a form that are no files may hold together."""

MAX_FIELDS = 1000
"""How many fields a form may have beside its files."""


_CHUNK_BYTES = 1024 * 1024


class SavedUpload(UploadFile):
    """A file of the form that lies in the storage already; there is nothing to read from it.

    Attributes:
        name: the safe name that it was to be saved under.
        saved: what the storage said of it.
    """

    def __init__(self, part: Part, name: str, saved: Mapping[str, object]) -> None:
        super().__init__(BytesIO(), filename=part.filename, headers=Headers(raw=part.headers))
        self.name, self.saved = name, saved


@dataclass(slots=True)
class Received:
    """What has come of an upload.

    Attributes:
        job_id: the id under which the files are saved.
        creator: whose upload it is.
        has_files: whether anything may have been saved.
        is_handed_over: whether somebody else answers for the files now.
    """

    job_id: str
    creator: str | None
    has_files: bool = False
    is_handed_over: bool = False


class _LateForm(FormData):
    def fill(self, items: list[tuple[str, UploadFile | str]]) -> None:
        super().__init__(items)


class UploadRoute(ProblemRoute):
    """A route whose body is left to the dependency that `receiver` makes."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler of the route."""
        handle = super().get_route_handler()

        async def handle_unread(request: Request) -> Response:
            # A private name of Starlette: what `request.form()` returns once it has parsed. Guarded by a test.
            if _is_multipart(request):
                request._form = _LateForm()
            return await handle(request)

        return handle_unread


def _is_multipart(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0]
    return kind.strip().lower() == "multipart/form-data"


def receiver(
    schema: type[BaseJobParams],
    repository: JobRepository,
    file_storage: FileStorage,
    get_current_user: Callable[..., Any],
) -> Callable[..., AsyncIterator[Received]]:
    """Make the dependency that receives an upload; what it saved is removed unless it is handed over."""
    limits = file_storage.upload_limits if isinstance(file_storage, LimitsUploads) else UploadLimits()

    async def receive(
        request: Request, user: Annotated[Any, Depends(get_current_user)]
    ) -> AsyncIterator[Received]:
        received = Received(str(uuid4()), creator_of(user))
        await _check_quota(repository, received.creator, limits)
        try:
            reception = _Reception(request, schema, file_storage, limits, received)
            await reception.read()
            yield received
        finally:
            if received.has_files and not received.is_handed_over:
                await discard(file_storage, received.job_id)

    return receive


async def _check_quota(repository: JobRepository, creator: str | None, limits: UploadLimits) -> None:
    most = limits.max_unfinished_jobs
    if most and creator is not None and isinstance(repository, CountsUnfinishedJobs):
        unfinished = await ask(repository, lambda: repository.count_unfinished(creator))
        if unfinished >= most:
            raise TooManyJobsError(
                f"You have {unfinished} unfinished jobs; {most} is the limit. Wait until some have finished."
            )


@dataclass
class _Reception:
    """One body on its way into the storage."""

    request: Request
    schema: type[BaseJobParams]
    file_storage: FileStorage
    limits: UploadLimits
    received: Received
    items: list[tuple[str, UploadFile | str]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    field_bytes: int = 0

    async def read(self) -> None:
        """Read the form; the request's own form then has all of it.

        Raises:
            fastapi.HTTPException: 400 for a body that is no form, 413 for one that is too large.
            RequestValidationError: a field that came before the files is not valid, or there are too many files.
            UploadTooLargeError: a file is.
        """
        form = self.request._form
        if not isinstance(form, _LateForm):
            # No files can be in it: FastAPI has read it.
            return
        content_type = self.request.headers["content-type"]
        most = self.limits.max_request_bytes
        declared = self.request.headers.get("content-length", "")
        if most is not None and declared.isdecimal() and int(declared) > most:
            raise self._too_large()
        try:
            async with aclosing(self._body()) as body:
                stream = MultipartStream(content_type, body, max_parts=MAX_FIELDS + self.limits.max_files + 1)
                async for part in stream.parts():
                    if part.filename:
                        await self._take_file(part)
                    else:
                        await self._take_field(part)
        except MultipartError as error:
            raise HTTPException(400, str(error)) from error
        except ClientDisconnect as error:
            # Nobody reads the answer.
            raise HTTPException(400, "The client has gone.") from error
        form.fill(self.items)

    async def _body(self) -> AsyncGenerator[bytes, None]:
        read, most = 0, self.limits.max_request_bytes
        async with aclosing(self.request.stream()) as chunks:
            async for chunk in chunks:
                read += len(chunk)
                if most is not None and read > most:
                    raise self._too_large()
                yield chunk

    async def _take_field(self, part: Part) -> None:
        value = await part.read(MAX_FIELD_BYTES + 1 - self.field_bytes)
        self.field_bytes += len(value)
        if self.field_bytes > MAX_FIELD_BYTES:
            raise HTTPException(413, f"The form's fields hold more than {MAX_FIELD_BYTES} bytes.")
        self.items.append((part.name, decoded(value)))

    async def _take_file(self, part: Part) -> None:
        if part.name != "file":
            # No field of ours: it is not even saved.
            return
        if not self.names:
            if faults := early_faults(self.schema, self.items):
                raise RequestValidationError(faults)
            self.received.has_files = True
            await run_in_threadpool(self.file_storage.create_job_directory, self.received.job_id)
        if len(self.names) == self.limits.max_files:
            raise too_many_files(self.limits.max_files)
        name = distinct_name(safe_file_name(part.filename), self.names)
        self.names.append(name)
        saved = await self._saved(name, part)
        self.items.append((part.name, SavedUpload(part, name, saved)))

    async def _saved(self, name: str, part: Part) -> Mapping[str, object]:
        if isinstance(self.file_storage, LimitsUploads):
            return await self.file_storage.save_input_file(self.received.job_id, name, part)
        # One written for 0.2.0 may seek, or want the file below.
        with SpooledTemporaryFile(max_size=_CHUNK_BYTES) as spool:
            while chunk := await part.read(_CHUNK_BYTES):
                await run_in_threadpool(spool.write, chunk)
            size = spool.tell()
            spool.seek(0)
            upload = UploadFile(spool, size=size, filename=part.filename, headers=Headers(raw=part.headers))  # type: ignore[arg-type]
            return await self.file_storage.save_input_file(self.received.job_id, name, upload)

    def _too_large(self) -> HTTPException:
        return HTTPException(
            413, f"The request is larger than the limit of {self.limits.max_request_bytes} bytes."
        )
