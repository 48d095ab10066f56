"""One form on its way: its files go to the storage, its fields are kept."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from io import BytesIO
from tempfile import SpooledTemporaryFile
from urllib.parse import parse_qsl

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, UploadFile
from starlette.requests import ClientDisconnect

from cl_ml_tools.common.file_storage import FileStorage, LimitsUploads, UploadLimits
from cl_ml_tools.common.schemas import BaseJobParams
from cl_ml_tools.file_names import distinct_name, safe_file_name
from cl_ml_tools.submission.earlier_jobs import EarlierJobs, check_no_output_without_job
from cl_ml_tools.submission.multipart_stream import MultipartError, MultipartStream, Part, decoded
from cl_ml_tools.submission.upload_form import (
    MAX_UNKNOWN_FIELDS,
    check_may_be_file,
    early_faults,
    known_names,
    too_many_files,
    unknown_field_faults,
)

MAX_FIELD_BYTES = 1_000_000
"""What all fields of a form that are no files may hold together."""

MAX_FIELDS = 1000
"""How many fields a form may have beside its files."""

MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"

_CHUNK_BYTES = 1024 * 1024


class SavedUpload(UploadFile):
    """A file of the form that lies in the storage already; there is nothing to read from it.

    Attributes:
        name: the safe name that it was to be saved under.
        saved: what the storage said of it.
    """

    def __init__(self, name: str, saved: Mapping[str, object], part: Part | None = None) -> None:
        headers = Headers(raw=part.headers) if part else None
        super().__init__(BytesIO(), filename=part.filename if part else name, headers=headers)
        self.name, self.saved = name, saved

    async def close(self) -> None:
        """Nothing is open. Starlette would ask a thread to close it."""


@dataclass(slots=True)
class Received:
    """What has come of an upload.

    Attributes:
        job_id: the id under which the files are saved.
        creator: whose upload it is.
        has_files: whether anything may have been saved.
        is_handed_over: whether somebody else answers for the files now.
        ignored_fields: what it had that the form has not; the first of them, if these are many.
    """

    job_id: str
    creator: str | None
    has_files: bool = False
    is_handed_over: bool = False
    ignored_fields: list[str] = field(default_factory=list)


@dataclass
class Reception:
    """One form on its way.

    Attributes:
        request: its body is read.
        schema: the parameters of the job that it is for.
        file_storage: takes the files.
        limits: how much is taken.
        earlier: finds what it takes from another job.
        received: told what has been saved.
        items: what the form has, files in it as `SavedUpload`.
    """

    request: Request
    schema: type[BaseJobParams]
    file_storage: FileStorage
    limits: UploadLimits
    earlier: EarlierJobs
    received: Received
    items: list[tuple[str, UploadFile | str | None]] = field(default_factory=list)
    _names: list[str] = field(default_factory=list)
    _unknown: dict[str, str | None] = field(default_factory=dict)
    _field_bytes: int = 0

    async def read(self) -> None:
        """Read the form into `items`.

        Raises:
            fastapi.HTTPException: 400 for a body that is no form, 413 for one that is too large.
            RequestValidationError: a field that came before the files is not valid, one is not the form's and the
                schema forbids such, there are too many files, or what is asked for of another job cannot be had.
            UploadTooLargeError: a file is.
            UnknownJobError, JobStateError: the other job has nothing to give.
        """
        kind = media_type(self.request)
        try:
            if kind == MULTIPART:
                await self._read_multipart()
            elif kind == URLENCODED:
                await self._read_urlencoded()
            elif kind:
                raise HTTPException(400, f"The body is {kind}; a form is needed, as {MULTIPART}.")
        except ClientDisconnect as error:
            # Nobody reads the answer.
            raise HTTPException(400, "The client has gone.") from error
        self._check_unknown()
        self.received.ignored_fields = list(self._unknown)
        await self._reuse_outputs()
        if all(name != "file" for name, _ in self.items):
            # FastAPI would be content without: the form's signature cannot say "unless".
            self.items.append(("file", None))

    async def _read_multipart(self) -> None:
        most = self.limits.max_request_bytes
        declared = self.request.headers.get("content-length", "")
        if most is not None and declared.isdecimal() and int(declared) > most:
            raise self._too_large()
        try:
            async with aclosing(self._body()) as body:
                content_type = self.request.headers["content-type"]
                stream = MultipartStream(content_type, body, max_parts=MAX_FIELDS + self.limits.max_files + 1)
                async for part in stream.parts():
                    if part.filename:
                        await self._take_file(part)
                    else:
                        await self._take_field(part)
        except MultipartError as error:
            raise HTTPException(400, str(error)) from error

    async def _read_urlencoded(self) -> None:
        # Starlette would take a thousand fields of a megabyte each.
        sent = bytearray()
        async with aclosing(self.request.stream()) as chunks:
            async for chunk in chunks:
                sent += chunk
                if len(sent) > MAX_FIELD_BYTES:
                    raise _fields_too_large()
        try:
            fields = parse_qsl(sent.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
        except ValueError as error:
            raise HTTPException(400, "The form has too many fields.") from error
        for name, value in fields:
            self._keep_field(name, value)

    async def _body(self) -> AsyncGenerator[bytes, None]:
        read, most = 0, self.limits.max_request_bytes
        async with aclosing(self.request.stream()) as chunks:
            async for chunk in chunks:
                read += len(chunk)
                if most is not None and read > most:
                    raise self._too_large()
                yield chunk

    async def _take_field(self, part: Part) -> None:
        value = await part.read(MAX_FIELD_BYTES + 1 - self._field_bytes)
        self._field_bytes += len(value)
        if self._field_bytes > MAX_FIELD_BYTES:
            raise _fields_too_large()
        self._keep_field(part.name, decoded(value))

    def _keep_field(self, name: str, value: str) -> None:
        self.items.append((name, value))
        self._note_unknown(name, value)

    def _note_unknown(self, name: str, value: str | None) -> None:
        if name not in known_names(self.schema) and len(self._unknown) < MAX_UNKNOWN_FIELDS:
            self._unknown.setdefault(name, value)

    def _check_unknown(self) -> None:
        if faults := unknown_field_faults(self.schema, self._unknown):
            # A misspelt name is better told here than by what FastAPI misses then.
            raise RequestValidationError(early_faults(self.schema, self.items) + faults)

    async def _take_file(self, part: Part) -> None:
        if part.name != "file":
            # Not even saved.
            check_may_be_file(self.schema, part.name)
            self._note_unknown(part.name, None)
            self._check_unknown()
            return
        if not self._names:
            self._check_unknown()
            if faults := early_faults(self.schema, self.items):
                raise RequestValidationError(faults)
            # So that nobody sends a file for nothing.
            await self.earlier.find(self.items)
            self.received.has_files = True
            await run_in_threadpool(self.file_storage.create_job_directory, self.received.job_id)
        if len(self._names) == self.limits.max_files:
            raise too_many_files(self.limits.max_files)
        name = distinct_name(safe_file_name(part.filename), self._names)
        self._names.append(name)
        saved = await self._saved(name, part)
        self.items.append((part.name, SavedUpload(name, saved, part)))

    async def _reuse_outputs(self) -> None:
        job = await self.earlier.find(self.items)
        if job is None:
            check_no_output_without_job(self.items)
            return
        self.received.has_files = True
        await run_in_threadpool(self.file_storage.create_job_directory, self.received.job_id)
        reused = await self.earlier.reuse(
            job,
            self.items,
            job_id=self.received.job_id,
            most=self.limits.max_files,
            taken=self._names,
        )
        self.items[:0] = [("file", SavedUpload(name, saved)) for name, saved in reused]

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


def media_type(request: Request) -> str:
    """The kind of a request's body, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _fields_too_large() -> HTTPException:
    return HTTPException(413, f"The form's fields hold more than {MAX_FIELD_BYTES} bytes.")
