"""HEAD is answered as GET is, without a body."""

import http.client
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from harness import Environment, Process
from job_http import add, complete

from cl_ml_tools.app import create_storage
from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.settings import Settings

CONTENT = bytes(3_000_000)
CHANGING = {"date", "x-request-id"}


@pytest.fixture
def connection(
    start_master: Callable[..., Process], environment: Environment, repository: CeleryJobRepository
) -> Iterator[http.client.HTTPConnection]:
    """One connection to a real master, whose job ``a`` has an output."""
    master = start_master()
    add(repository.store, "a")
    storage = create_storage(Settings.from_environment(environment.variables))
    complete(repository.store, storage, "a", cat_png=CONTENT)
    connection = http.client.HTTPConnection(urlsplit(master.url).netloc, timeout=20)
    yield connection
    connection.close()
    assert "Traceback" not in master.output


def headers_of(
    connection: http.client.HTTPConnection, method: str, path: str
) -> tuple[int, dict[str, str], int]:
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    return (
        answer.status,
        {name: value for name, value in answer.getheaders() if name not in CHANGING},
        len(body),
    )


@pytest.mark.parametrize(
    "path",
    [
        "/api/health/live",
        "/api/jobs",
        "/api/jobs/a",
        "/api/jobs/a/outputs",
        "/api/jobs/a/outputs/cat.png",
        "/api/jobs/a/outputs.zip",
        "/api/jobs/a/outputs/none.png",
        "/docs",
    ],
)
def test_head_has_the_status_and_the_headers_of_get(
    connection: http.client.HTTPConnection, path: str
) -> None:
    got, sent, size = headers_of(connection, "GET", path)
    asked, told, nothing = headers_of(connection, "HEAD", path)
    assert (asked, told, nothing) == (got, sent, 0)
    assert size > 0
    assert headers_of(connection, "GET", path)[2] == size, "the connection is still of use"


@pytest.mark.parametrize("path", ["/api/jobs/events", "/api/jobs/b/events"])
def test_head_of_a_stream_of_events_ends(
    connection: http.client.HTTPConnection, repository: CeleryJobRepository, path: str
) -> None:
    add(repository.store, "b")
    status, headers, size = headers_of(connection, "HEAD", path)
    assert (status, size) == (200, 0)
    assert headers["content-type"].startswith("text/event-stream")
    assert headers_of(connection, "GET", "/api/jobs/b")[0] == 200


def test_head_where_there_is_no_get_is_refused(connection: http.client.HTTPConnection) -> None:
    status, headers, _ = headers_of(connection, "HEAD", "/api/jobs/a/cancel")
    assert status == 405
    assert headers["allow"] == "POST"
