"""A client of a master on this machine, with nothing but the standard library."""

import contextlib
import http.client
import json
import mimetypes
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_ml_tools.errors import DemoError

_JOBS = "/api/jobs"
_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """A server-sent event: its name, and its data as they came."""

    name: str
    data: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to an upload: the job's id, and the fields that the task does not have."""

    job_id: str
    ignored_fields: list[str]


class MasterClient:
    """Speaks to the master over HTTP, one connection a request.

    Every method raises `cl_ml_tools.errors.DemoError` when the master refuses (4xx), and OSError or
    `http.client.HTTPException` when it fails (5xx), cannot be understood or cannot be reached.
    """

    def __init__(
        self, host: str, port: int, *, token: str | None = None, timeout_seconds: float = 60.0
    ) -> None:
        """Connect nothing yet.

        Args:
            host: where the master is.
            port: its port.
            token: its bearer token, where the master asks for one.
            timeout_seconds: the longest silence; the stream of events says something every 15 s.
        """
        self._host, self._port, self._timeout_seconds = host, port, timeout_seconds
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def is_up(self) -> bool:
        """Whether the master answers."""
        try:
            self._json("GET", "/openapi.json")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def task_types(self) -> list[str]:
        """The tasks that take an upload, sorted."""
        paths = self._json("GET", "/openapi.json")["paths"]
        return sorted(
            path.removeprefix(f"{_JOBS}/")
            for path, methods in paths.items()
            if path.startswith(f"{_JOBS}/") and "post" in methods and "{" not in path
        )

    def submit(self, task_type: str, file: Path, fields: Iterable[tuple[str, str]]) -> Accepted:
        """Upload a file to a task; a field of several values is there several times."""
        boundary = secrets.token_hex(16)
        head = b"".join(_form_field(boundary, name, value) for name, value in fields)
        head += _file_head(boundary, file)
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + file.stat().st_size + len(tail)),
        }
        answer = self._json("POST", f"{_JOBS}/{task_type}", _chunks(head, file, tail), headers)
        return Accepted(str(answer["job_id"]), list(answer.get("ignored_fields") or ()))

    def job(self, job_id: str) -> dict[str, Any]:
        """How the job stands."""
        job: dict[str, Any] = self._json("GET", f"{_JOBS}/{job_id}")
        return job

    def follow(self, job_id: str) -> Iterator[dict[str, Any]]:
        """The job's changes as they happen, each with ``status`` and ``progress``, until the master ends."""
        with self._connection() as connection:
            headers = {**self._headers, "Accept": "text/event-stream"}
            connection.request("GET", f"{_JOBS}/{job_id}/events", headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                raise _refusal(response.status, response.read())
            for event in read_events(response):
                yield json.loads(event.data)

    def _json(
        self,
        method: str,
        path: str,
        body: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        with self._connection() as connection:
            # A master that refuses an upload answers before it has read all of it.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, body, {**self._headers, **(headers or {})})
            response = connection.getresponse()
            content = response.read()
        if response.status >= 300:
            raise _refusal(response.status, content)
        return json.loads(content)

    def _connection(self) -> "contextlib.closing[http.client.HTTPConnection]":
        return contextlib.closing(
            http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_seconds)
        )


def read_events(lines: Iterable[bytes]) -> Iterator[ServerEvent]:
    """Parse a stream of server-sent events; a last one without its blank line is no event."""
    name, data = "message", list[str]()
    for raw in lines:
        line = raw.decode(errors="replace").rstrip("\r\n")
        if not line:
            if data:
                yield ServerEvent(name, "\n".join(data))
            name, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)


def _refusal(status: int, content: bytes) -> Exception:
    """What the master said, in words: of a 422 the fields and what is wrong with each."""
    try:
        detail = json.loads(content)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = content.decode(errors="replace")
    if isinstance(detail, list):
        lines = [f"  {_field(entry.get('loc', ()))}: {entry.get('msg')}" for entry in detail]
        return DemoError(
            "\n".join(["the master does not take the job:", *lines, "Set fields with --set name=value."])
        )
    answer = f"the master answered {status}: {detail}"
    return DemoError(answer) if status < 500 else http.client.HTTPException(answer)


def _field(location: Iterable[object]) -> str:
    return ".".join(str(part) for part in location if part != "body") or "the form"


def _form_field(boundary: str, name: str, value: str) -> bytes:
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n{value}\r\n'
    ).encode()


def _file_head(boundary: str, file: Path) -> bytes:
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{_quoted(file.name)}"\r\n'
        f"Content-Type: {kind}\r\n\r\n"
    ).encode(errors="replace")


def _quoted(name: str) -> str:
    """As browsers write a name into a form's header."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _chunks(head: bytes, file: Path, tail: bytes) -> Iterator[bytes]:
    yield head
    with file.open("rb") as source:
        while chunk := source.read(_CHUNK_BYTES):
            yield chunk
    yield tail
