"""What jobs have made: a list, each file, all of them."""

import os
import re
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import Annotated, Any, BinaryIO
from urllib.parse import quote

from fastapi import APIRouter, Header, HTTPException, Path, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from cl_ml_tools.common.file_storage import FileStorage
from cl_ml_tools.common.schemas import Job, JobStatus
from cl_ml_tools.errors import JobStateError
from cl_ml_tools.job_routes.access import JobAccess
from cl_ml_tools.job_routes.state import UNKNOWN_JOB
from cl_ml_tools.job_routes.views import OutputView
from cl_ml_tools.output_files import (
    CHUNK_BYTES,
    OutputFile,
    file_sha256,
    find_output,
    list_outputs,
    zip_chunks,
)
from cl_ml_tools.web.errors import problem_responses

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.IGNORECASE)

# What a client made is data: never run as a page of ours, never taken for another type than it is sent as.
_AS_DATA = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, no-cache",
}

_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_NOT_COMPLETED = problem_responses({409: "The job is not completed: it has no outputs yet."})


def add_outputs(router: APIRouter, access: JobAccess, file_storage: FileStorage) -> None:
    """Add ``GET /jobs/{job_id}/outputs``, ``.../outputs/{name}`` and ``.../outputs.zip``."""

    def views(job_id: str) -> list[OutputView]:
        return [
            OutputView(name=file.name, size=file.size, media_type=file.media_type, sha256=file_sha256(file))
            for file in list_outputs(file_storage.get_output_path(job_id))
        ]

    def opened(job_id: str, name: str) -> tuple[OutputFile, str, BinaryIO] | None:
        file = find_output(file_storage.get_output_path(job_id), name)
        return None if file is None else (file, file_sha256(file), file.path.open("rb"))

    @router.get("/jobs/{job_id}/outputs", responses=UNKNOWN_JOB, summary="What a job has made")
    async def list_job_outputs(job: Annotated[Job, access.job]) -> list[OutputView]:
        """The files that the job has made, by name; none until it is completed."""
        return await run_in_threadpool(views, job.job_id) if job.status == JobStatus.COMPLETED else []

    @router.get(
        "/jobs/{job_id}/outputs.zip",
        response_class=StreamingResponse,
        responses={
            **UNKNOWN_JOB,
            **_NOT_COMPLETED,
            200: {"description": "The archive, as it is made.", "content": {"application/zip": _BINARY}},
        },
        summary="All that a job has made, as one zip",
    )
    async def download_all(job: Annotated[Job, access.job]) -> StreamingResponse:
        _check_completed(job)
        folder = await run_in_threadpool(file_storage.get_output_path, job.job_id)
        files = await run_in_threadpool(list_outputs, folder)
        headers = {**_AS_DATA, "Content-Disposition": _attachment(f"{job.job_id}.zip")}
        return StreamingResponse(zip_chunks(files), media_type="application/zip", headers=headers)

    @router.get(
        "/jobs/{job_id}/outputs/{name:path}",
        response_class=StreamingResponse,
        responses={
            **problem_responses(
                {
                    404: "There is no such job, or it has no such output.",
                    416: "The file ends before the range begins.",
                    422: "A value is not valid.",
                },
                {416: {"Content-Range": "The file's size."}},
            ),
            **_NOT_COMPLETED,
            200: {"description": "The file.", "content": {"*/*": _BINARY}},
            206: {"description": "The bytes that `Range` asked for.", "content": {"*/*": _BINARY}},
            304: {"description": "`If-None-Match` names the file as it is."},
        },
        summary="A file that a job has made",
    )
    async def download(
        job: Annotated[Job, access.job],
        name: Annotated[str, Path(description="A name from the list of outputs.")],
        range_: Annotated[str | None, Header(alias="Range")] = None,
        if_range: Annotated[str | None, Header()] = None,
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Always as an attachment. One range of bytes can be asked for; a request for more gets the whole file."""
        _check_completed(job)
        try:
            found = await run_in_threadpool(opened, job.job_id, name)
        except FileNotFoundError:
            found = None
        if found is None:
            raise HTTPException(404, f"Job {job.job_id!r} has no output {name!r}.")
        file, sha256, source = found
        try:
            return _file_response(file, sha256, source, range_, if_range, if_none_match)
        except BaseException:
            source.close()
            raise


def _check_completed(job: Job) -> None:
    if job.status != JobStatus.COMPLETED:
        raise JobStateError(f"Job {job.job_id!r} is {job.status}: it has outputs once it is completed.")


def _file_response(
    file: OutputFile,
    sha256: str,
    source: BinaryIO,
    range_: str | None,
    if_range: str | None,
    if_none_match: str | None,
) -> Response:
    etag = f'"{sha256}"'
    headers = {
        **_AS_DATA,
        "ETag": etag,
        "Last-Modified": formatdate(file.modified_ns / 1e9, usegmt=True),
        "Accept-Ranges": "bytes",
        "Content-Disposition": _attachment(file.name.rsplit("/", 1)[-1]),
    }
    if if_none_match is not None and _names(if_none_match, etag):
        source.close()
        return Response(status_code=304, headers=headers)
    begin, end, status = 0, file.size, 200
    wanted = _RANGE.fullmatch(range_.strip()) if range_ and if_range in (None, etag) else None
    if wanted is not None and any(wanted.groups()):
        begin, end, status = _bounds(wanted[1], wanted[2], file.size)
        if status == 206:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{file.size}"
    headers["Content-Length"] = str(end - begin)
    return StreamingResponse(
        _chunks(source, begin, end), status_code=status, headers=headers, media_type=file.media_type
    )


def _bounds(first: str, last: str, size: int) -> tuple[int, int, int]:
    """Where the range begins and ends, and the status; a range that is none means the whole file."""
    if first:
        begin, end = int(first), min(int(last) + 1 if last else size, size)
    else:
        begin, end = max(size - int(last), 0), size
    if last and first and int(last) < int(first):
        return 0, size, 200
    if begin >= size or begin >= end:
        raise HTTPException(416, f"The file has {size} bytes.", {"Content-Range": f"bytes */{size}"})
    return begin, end, 206


async def _chunks(source: BinaryIO, begin: int, end: int) -> AsyncIterator[bytes]:
    with source:
        if begin:
            await run_in_threadpool(source.seek, begin, os.SEEK_SET)
        left = end - begin
        while left and (chunk := await run_in_threadpool(source.read, min(CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk


def _names(if_none_match: str, etag: str) -> bool:
    known = [entry.strip().removeprefix("W/") for entry in if_none_match.split(",")]
    return etag in known or "*" in known


def _attachment(name: str) -> str:
    return f"attachment; filename*=utf-8''{quote(name, safe='')}"
