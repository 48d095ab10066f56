import hashlib
import http.client
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import uvicorn
from fastapi import FastAPI, Form, HTTPException, Request, UploadFile
from fastapi.sse import EventSourceResponse, ServerSentEvent

from cl_ml_tools.demo.master_client import Accepted, MasterClient, ServerEvent, read_events
from cl_ml_tools.errors import DemoError

app = FastAPI()


@app.post("/api/jobs/echo")
async def echo(
    file: UploadFile, width: Annotated[int, Form(gt=0)], note: Annotated[str, Form()] = ""
) -> dict[str, str]:
    content = await file.read()
    told = [str(file.filename), str(file.content_type), str(width), note, hashlib.sha256(content).hexdigest()]
    return {"job_id": "|".join(told)}


@app.post("/api/jobs/listed")
async def listed(file: UploadFile, tag: Annotated[list[str], Form()]) -> dict[str, Any]:
    return {"job_id": "|".join(tag), "ignored_fields": ["titel"]}


@app.post("/api/jobs/too_large")
async def too_large(request: Request) -> None:
    raise HTTPException(413, "larger than I like")


@app.post("/api/jobs/broken")
async def broken() -> None:
    raise HTTPException(500, "out of order")


@app.get("/api/jobs/{job_id}/events", response_class=EventSourceResponse)
async def events(job_id: str) -> AsyncIterator[ServerSentEvent]:
    for progress in (0, 50, 100):
        yield ServerSentEvent(event="progress", data={"job_id": job_id, "progress": progress})


@pytest.fixture(scope="module")
def client() -> Iterator[MasterClient]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield MasterClient("127.0.0.1", listener.getsockname()[1], timeout_seconds=10)
    server.should_exit = True
    thread.join()


def told(name: str, data: Any) -> ServerEvent:
    return ServerEvent(name, data)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        ("data: a\n\n", [told("message", "a")]),
        ("event: status\ndata: a\nid: 1-0\n\n", [told("status", "a")]),
        ("event: status\r\ndata: a\r\n\r\n", [told("status", "a")]),
        ("event: one\ndata: a\n\ndata: b\n\n", [told("one", "a"), told("message", "b")]),
        ("data: a\ndata: b\n\n", [told("message", "a\nb")]),
        ("data:a\n\n", [told("message", "a")]),
        ("data:  a\n\n", [told("message", " a")]),
        ("data: a: b\n\n", [told("message", "a: b")]),
        (": ping\n\n", []),
        (": ping\n\ndata: a\n\n", [told("message", "a")]),
        ("event: status\n\n", []),
        ("retry: 10\nunknown: x\ndata: a\n\n", [told("message", "a")]),
        ("data: cut off\n", []),
        ("data: ü\n\n", [told("message", "ü")]),
    ],
)
def test_events_are_read_as_the_standard_says(stream: str, events: list[ServerEvent]) -> None:
    assert list(read_events(stream.encode().splitlines(keepends=True))) == events


def test_an_upload_arrives_as_it_was_sent(client: MasterClient, tmp_path: Path) -> None:
    file = tmp_path / "mein Föto; x.png"
    file.write_bytes(os.urandom(2_000_000))
    answer = client.submit("echo", file, [("width", "7"), ("note", 'a "b"\r\nü')])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert answer.ignored_fields == []
    assert answer.job_id == f'mein Föto; x.png|image/png|7|a "b"\r\nü|{digest}'


def test_a_field_may_be_repeated_and_what_the_master_ignored_is_told(
    client: MasterClient, tmp_path: Path
) -> None:
    (tmp_path / "a.png").touch()
    answer = client.submit("listed", tmp_path / "a.png", [("tag", "a"), ("titel", "x"), ("tag", "b")])
    assert answer == Accepted("a|b", ["titel"])


def test_a_name_cannot_leave_its_header(client: MasterClient, tmp_path: Path) -> None:
    file = tmp_path / 'a"\r\nX-Evil: 1'
    file.touch()
    assert client.submit("echo", file, [("width", "7")]).job_id.startswith(
        "a%22%0D%0AX-Evil: 1|application/octet-stream|7||"
    )


def test_the_tasks_are_what_takes_an_upload(client: MasterClient) -> None:
    assert client.task_types() == ["broken", "echo", "listed", "too_large"]


def test_a_refused_form_is_told_field_by_field(client: MasterClient, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DemoError, match="width: Input should be greater than 0"):
        client.submit("echo", tmp_path / "a.png", [("width", "0")])
    with pytest.raises(DemoError, match="width: Field required"):
        client.submit("echo", tmp_path / "a.png", [])


def test_an_upload_refused_before_it_was_read_is_told(client: MasterClient, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bytes(30_000_000))
    with pytest.raises(DemoError, match="the master answered 413: larger than I like"):
        client.submit("too_large", tmp_path / "a.png", [])


def test_a_failure_of_the_master_is_no_refusal(client: MasterClient, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(http.client.HTTPException, match="the master answered 500: out of order"):
        client.submit("broken", tmp_path / "a.png", [])


def test_a_job_is_followed_to_the_end_of_the_stream(client: MasterClient) -> None:
    assert [change["progress"] for change in client.follow("j1")] == [0, 50, 100]


def test_an_unknown_address_is_a_refusal(client: MasterClient) -> None:
    with pytest.raises(DemoError, match="404"):
        client.job("j1")


def test_a_master_that_is_not_there_is_not_up(client: MasterClient) -> None:
    assert client.is_up()
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    assert not MasterClient("127.0.0.1", port).is_up()
