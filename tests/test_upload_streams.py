"""Uploads that go to the storage while they arrive."""

import asyncio
import hashlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

import httpx2
import pytest
import starlette.formparsers
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from harness import Process, all_jobs, wait_until
from job_http import user_of_header
from plain_implementations import MemoryRepository
from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from cl_ml_tools import BaseJobParams, JobRepository
from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.common.file_storage import UploadLimits
from cl_ml_tools.stores.local_files import LocalFileStorage
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.submission import upload_route


def no_user() -> None:
    return None


BOUNDARY = "-----x"


class Params(BaseJobParams):
    size: int = Field(ge=1, le=10)
    even: Annotated[int, BeforeValidator(lambda value: int(value) * 2)] = 2
    words: list[str] = Field(default_factory=list, max_length=2)


ROUTE = upload_route("probe", Params, output_name=lambda name, _: name)


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def client_of(
    repository: JobRepository, storage: LocalFileStorage, user: Callable[..., Any] = user_of_header
) -> TestClient:
    app = FastAPI()
    app.include_router(ROUTE(repository, storage, user))
    return TestClient(app, raise_server_exceptions=False)


def kept(storage: LocalFileStorage) -> list[Path]:
    return list((storage.base_dir / "jobs").glob("*"))


@pytest.fixture
def plain() -> MemoryRepository:
    return MemoryRepository()


@pytest.fixture
def storage(tmp_path: Path) -> LocalFileStorage:
    limits = UploadLimits(max_files=3, max_request_bytes=100_000)
    return LocalFileStorage(tmp_path / "media", max_file_bytes=50_000, upload_limits=limits)


@pytest.fixture
def client(plain: MemoryRepository, storage: LocalFileStorage) -> TestClient:
    return client_of(plain, storage)


class Uploaded:
    """A body that says how much of it was asked for."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks, self.sent = chunks, 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            self.sent += 1
            yield chunk


def test_nothing_is_spooled(
    client: TestClient, plain: MemoryRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the private name by which Starlette is kept from reading the form."""
    monkeypatch.setattr(starlette.formparsers, "SpooledTemporaryFile", None)
    monkeypatch.setattr("cl_ml_tools.submission.reception.SpooledTemporaryFile", None)
    answer = client.post("/jobs/probe", data={"size": "3"}, files={"file": ("a.bin", os.urandom(40_000))})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("cut", [1, 7, 64, 1000, 10**6])
def test_a_body_may_be_cut_anywhere(
    cut: int, client: TestClient, plain: MemoryRepository, storage: LocalFileStorage
) -> None:
    contents = [os.urandom(5000) + b"\r\n--" + BOUNDARY.encode()[:-1], b"", b"\r\n" * 100]
    body = b"".join(
        [
            part("words", b"one"),
            *(part("file", content, f"{number}.bin") for number, content in enumerate(contents)),
            part("words", "zw\N{LATIN SMALL LETTER O WITH DIAERESIS}lf".encode()),
            part("size", b"3"),
            END,
        ]
    )
    answer = client.post(
        "/jobs/probe", content=(body[n : n + cut] for n in range(0, len(body), cut)), headers=HEADERS
    )
    assert answer.status_code == 200, answer.text
    params = plain.only_job.params
    assert [Path(path).read_bytes() for path in params["input_paths"]] == contents
    assert (params["size"], params["words"]) == (3, ["one", "zw\N{LATIN SMALL LETTER O WITH DIAERESIS}lf"])


@pytest.mark.parametrize(
    ("before", "faulty"),
    [
        (part("size", b"11"), "size"),
        (part("size", b"x"), "size"),
        (part("size", b"1") + part("priority", b"11"), "priority"),
        (part("words", b"a") * 3, "words"),
    ],
)
def test_fields_that_come_first_are_checked_before_the_file_is_received(
    before: bytes, faulty: str, plain: MemoryRepository, storage: LocalFileStorage, client: TestClient
) -> None:
    body = Uploaded(before + part("file", b"", "a.bin")[:-2], *[bytes(1000)] * 20, b"\r\n" + END)
    answer = client.post("/jobs/probe", content=iter(body), headers=HEADERS)
    assert answer.status_code == 422
    assert [error["loc"][:2] for error in answer.json()["detail"]] == [["body", faulty]]
    assert not kept(storage)


class Exact(Params):
    model_config = ConfigDict(extra="forbid")


@pytest.mark.parametrize(
    "before",
    [part("size", b"1") + part("sise", b"2") + part("file", b"", "a")[:-2], part("flie", b"", "a")[:-2]],
)
def test_a_forbidden_field_that_comes_first_is_refused_before_the_file_is_received(
    before: bytes, plain: MemoryRepository, storage: LocalFileStorage
) -> None:
    app = FastAPI()
    app.include_router(
        upload_route("probe", Exact, output_name=lambda name, _: name)(plain, storage, no_user)
    )
    storage.create_job_directory = None  # type: ignore[method-assign, assignment]
    body = Uploaded(before, *[bytes(1000)] * 20, b"\r\n" + END)
    answer = TestClient(app).post("/jobs/probe", content=iter(body), headers=HEADERS)
    assert answer.status_code == 422
    assert [error["type"] for error in answer.json()["detail"]] == ["extra_forbidden"]


class Stripped(BaseJobParams):
    model_config = ConfigDict(str_strip_whitespace=True, str_to_lower=True)

    code: str = Field(max_length=2)
    kind: Annotated[str, Field(pattern="^[ab]$")] = "a"


class Rewritten(BaseJobParams):
    size: int = Field(ge=1, le=10)

    @model_validator(mode="before")
    @classmethod
    def _metres(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "size": str(values["size"]).removesuffix("m")}


class Wrapped(BaseJobParams):
    size: int = Field(ge=1, le=10)

    @model_validator(mode="wrap")
    @classmethod
    def _metres(cls, values: Any, handler: Callable[[Any], Self]) -> Self:
        return handler({**values, "size": str(values["size"]).removesuffix("m")})


@pytest.mark.parametrize(
    ("schema", "form", "refused"),
    [
        (Stripped, {"code": "  XY ", "kind": " b"}, {"code": "xyz"}),
        (Rewritten, {"size": "3m"}, {"size": "11m"}),
        (Wrapped, {"size": "3m"}, {"size": "11m"}),
    ],
)
def test_fields_that_come_first_are_refused_only_when_the_schema_refuses_them(
    schema: type[BaseJobParams],
    form: dict[str, str],
    refused: dict[str, str],
    plain: MemoryRepository,
    storage: LocalFileStorage,
) -> None:
    app = FastAPI()
    app.include_router(
        upload_route("probe", schema, output_name=lambda name, _: name)(plain, storage, no_user)
    )
    with TestClient(app) as client:
        answer = client.post("/jobs/probe", data=form, files={"file": ("a", b"x")})
        assert answer.status_code == 200, answer.text
        bad = client.post("/jobs/probe", data=refused, files={"file": ("a", b"x")})
        urgent = client.post("/jobs/probe", data={**form, "priority": "11"}, files={"file": ("a", b"x")})
    for answer, field in ((bad, next(iter(refused))), (urgent, "priority")):
        assert [error["loc"] for error in answer.json()["detail"]] == [["body", field]]
    assert len(kept(storage)) == 1


def test_fields_that_come_last_are_checked_too_and_nothing_stays(
    client: TestClient, storage: LocalFileStorage
) -> None:
    answer = client.post(
        "/jobs/probe", content=part("file", b"x", "a") + part("size", b"0") + END, headers=HEADERS
    )
    assert answer.status_code == 422
    assert not kept(storage)


def test_a_user_who_is_refused_is_so_before_anything_is_received(
    plain: MemoryRepository, storage: LocalFileStorage
) -> None:
    def stranger() -> None:
        raise HTTPException(401, "Who are you?", {"WWW-Authenticate": "Bearer"})

    storage.create_job_directory = None  # type: ignore[method-assign, assignment]
    answer = client_of(plain, storage, stranger).post(
        "/jobs/probe", data={"size": "1"}, files={"file": ("a", b"x")}
    )
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("kind", ["application/json", "multipart/mixed; boundary=x", "text/plain"])
def test_a_body_that_is_no_form_is_refused_as_what_it_is(client: TestClient, kind: str) -> None:
    answer = client.post("/jobs/probe", content=b"{}", headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert (
        answer.json()["detail"]
        == f"The body is {kind.split(';')[0]}; a form is needed, as multipart/form-data."
    )


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (part("file", bytes(50_001), "a.bin") + END, 413, "'a.bin' is larger than the limit of 50000 bytes"),
        (
            part("file", bytes(49_000), "a") * 3 + END,
            413,
            "The request is larger than the limit of 100000 bytes.",
        ),
        (part("size", bytes(1_000_001)) + END, 413, None),
        (part("file", b"x", "a") * 4 + END, 422, None),
        (part("x", b"") * 1100 + END, 400, "The form has too many parts."),
        (part("file", b"x", "a"), 400, "The body ends before the form does."),
        (part("file", b"x", "a")[:-1], 400, "The body ends before the form does."),
        (b"no form at all", 400, None),
        (b"", 400, None),
        (b"--" + BOUNDARY.encode() + b"\r\nX: y\r\n\r\nx\r\n" + END, 400, "A part has no name."),
        (b"--" + BOUNDARY.encode() + b"\r\n" + b"X: y\r\n" * 100 + b"\r\nx\r\n" + END, 400, None),
        (b"--" + BOUNDARY.encode() + b"\r\nX: " + b"y" * 10_000, 400, None),
    ],
)
@pytest.mark.parametrize("declared", [True, False])
def test_what_cannot_be_taken_is_refused_and_leaves_nothing(
    body: bytes, status: int, told: str | None, declared: bool, client: TestClient, storage: LocalFileStorage
) -> None:
    content: Any = body if declared else iter([body[n : n + 1000] for n in range(0, len(body), 1000)])
    answer = client.post("/jobs/probe", content=content, headers=HEADERS)
    if len(body) > 100_000 and declared:
        status, told = 413, "The request is larger than the limit of 100000 bytes."
    assert answer.status_code == status, answer.text
    assert told is None or answer.json()["detail"] == told
    assert not kept(storage)


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=", f"multipart/form-data; boundary={'x' * 5000}"],
)
def test_a_form_without_a_boundary_is_refused(content_type: str, client: TestClient) -> None:
    answer = client.post("/jobs/probe", content=b"x", headers={"Content-Type": content_type})
    assert answer.status_code == 400


def test_a_body_of_which_nothing_is_said_has_no_file(client: TestClient) -> None:
    answer = client.post("/jobs/probe", content=b"{}", headers={"Content-Type": ""})
    assert answer.status_code == 422


def test_a_disk_is_not_filled_up(plain: MemoryRepository, tmp_path: Path) -> None:
    storage = LocalFileStorage(tmp_path, min_free_bytes=2**62)
    answer = client_of(plain, storage).post("/jobs/probe", data={"size": "1"}, files={"file": ("a", b"x")})
    assert (answer.status_code, answer.headers["content-type"]) == (507, "application/problem+json")
    assert not kept(storage)


def test_a_storage_of_0_2_0_gets_a_file_that_it_can_seek(plain: MemoryRepository, tmp_path: Path) -> None:
    class Old:
        def __init__(self, inner: LocalFileStorage) -> None:
            self.create_job_directory, self.cleanup_job = inner.create_job_directory, inner.cleanup_job
            self.get_input_path, self.get_output_path = inner.get_input_path, inner.get_output_path

        async def save_input_file(self, job_id: str, filename: str, file: Any) -> dict[str, Any]:
            path = self.get_input_path(job_id) / filename
            assert len(await file.read()) == file.size == 40_000
            await file.seek(0)
            path.write_bytes(file.file.read())
            return {"filename": filename, "path": str(path)}

    content = os.urandom(40_000)
    client = client_of(plain, Old(LocalFileStorage(tmp_path)))  # type: ignore[arg-type]
    assert client.post("/jobs/probe", data={"size": "1"}, files={"file": ("a", content)}).status_code == 200
    assert Path(plain.only_job.params["input_paths"][0]).read_bytes() == content


def test_a_user_has_so_many_unfinished_jobs_and_no_more(
    repository: CeleryJobRepository, store: RedisJobStore, tmp_path: Path
) -> None:
    storage = LocalFileStorage(tmp_path / "media", upload_limits=UploadLimits(max_unfinished_jobs=2))
    client = client_of(repository, storage)

    def post(user: str) -> httpx2.Response:
        file = {"file": ("a", b"x")}
        return client.post("/jobs/probe", data={"size": "1"}, files=file, headers={"X-User": user})

    first = post("ann")
    assert [first.status_code, post("ann").status_code] == [200, 200]
    refused = post("ann")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
    assert "2 unfinished jobs" in refused.json()["detail"]
    assert post("bob").status_code == 200
    repository.cancel_job(first.json()["job_id"])
    assert post("ann").status_code == 200


@pytest.mark.parametrize("limit", [1, 3])
def test_of_uploads_begun_together_no_more_are_accepted_than_a_user_may_have(
    limit: int, repository: CeleryJobRepository, store: RedisJobStore, tmp_path: Path
) -> None:
    together = 12
    gate = asyncio.Barrier(together + 1)

    class Gated(LocalFileStorage):
        async def save_input_file(self, job_id: str, filename: str | None, file: Any) -> Any:
            saved = await super().save_input_file(job_id, filename, file)
            await gate.wait()
            return saved

    storage = Gated(tmp_path / "media", upload_limits=UploadLimits(max_unfinished_jobs=limit))
    app = FastAPI()
    app.include_router(ROUTE(repository, storage, user_of_header))

    async def scenario() -> list[httpx2.Response]:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:

            def post(user: str) -> Any:
                file = {"file": ("a", b"x")}
                return client.post("/jobs/probe", data={"size": "1"}, files=file, headers={"X-User": user})

            answers: list[httpx2.Response] = await asyncio.gather(
                *(post("ann") for _ in range(together)), post("bob")
            )
            return answers

    *answers, other = asyncio.run(scenario())
    assert sorted(answer.status_code for answer in answers) == [200] * limit + [429] * (together - limit)
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["retry-after"] == "5"
    assert f"{limit} is the limit" in refused.json()["detail"]
    assert other.status_code == 200
    assert len(kept(storage)) == len(all_jobs(store)) == limit + 1


# --- clients that go away


def test_a_client_that_goes_away_in_the_midst_leaves_nothing(
    start_master: Callable[..., Process], tmp_path: Path
) -> None:
    address = urlsplit(start_master().wait_for("Uvicorn running").url)
    jobs = tmp_path / "media" / "jobs"
    connections = []
    for _ in range(10):
        connection = socket.create_connection((address.hostname, address.port))
        body = part("width", b"3") + part("height", b"3") + part("file", bytes(3_000_000), "a.png")[:-2]
        head = "POST /api/jobs/image_resize HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n"
        connection.sendall(f"{head}Content-Type: {HEADERS['Content-Type']}\r\n\r\n".encode() + body)
        connections.append(connection)
    # Half of each is on the disk when they go.
    wait_until(lambda: sum(path.stat().st_size for path in jobs.rglob(".incoming-*")) > 10_000_000)
    for connection in connections:
        connection.close()
    wait_until(lambda: not list(jobs.glob("*")), why="all is removed")


# --- the same upload twice


def post(
    url: str, key: str, content: bytes = b"x", *, width: int = 3, name: str = "a.png"
) -> httpx2.Response:
    return httpx2.post(
        f"{url}/api/jobs/image_resize",
        data={"width": width, "height": 4},
        files={"file": (name, content)},
        headers={"Idempotency-Key": key},
        timeout=30,
    )


def test_an_upload_that_is_repeated_gives_the_same_job(
    start_master: Callable[..., Process], store: RedisJobStore, tmp_path: Path
) -> None:
    urls = [start_master().url, start_master().url]
    first, again = post(urls[0], "k1"), post(urls[1], "k1")
    assert first.json() == again.json()
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    assert "idempotent-replayed" not in first.headers
    for other in (post(urls[1], "k1", b"y"), post(urls[1], "k1", width=5), post(urls[1], "k1", name="b.png")):
        assert other.status_code == 409
        assert "something else" in other.json()["detail"]
    assert post(urls[1], "k2").json()["job_id"] != first.json()["job_id"]
    assert len(list((tmp_path / "media" / "jobs").glob("*"))) == len(all_jobs(store)) == 2
    assert post(urls[0], "bad key").status_code == 422
    store.delete(first.json()["job_id"])
    assert post(urls[1], "k1", b"y").status_code == 200, "what was removed is forgotten"


def test_a_key_that_is_used_by_many_at_once_gives_one_job(
    start_master: Callable[..., Process], store: RedisJobStore, tmp_path: Path
) -> None:
    urls = [start_master().url, start_master().url]
    gate = threading.Barrier(16)

    def submit(number: int) -> tuple[int, str, str]:
        gate.wait()
        answer = post(urls[number % 2], "race", b"x" if number % 4 else b"other")
        return answer.status_code, answer.json().get("job_id", ""), "x" if number % 4 else "other"

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(submit, range(16)))
    (winner,) = {content for status, _, content in answers if status == 200}
    assert len({job_id for status, job_id, _ in answers if status == 200}) == 1
    assert {status for status, _, content in answers if content == winner} == {200}
    assert {status for status, _, content in answers if content != winner} == {409}
    assert len(list((tmp_path / "media" / "jobs").glob("*"))) == len(all_jobs(store)) == 1


def test_a_key_is_its_creators_and_lives_for_a_day(
    repository: CeleryJobRepository, store: RedisJobStore, tmp_path: Path
) -> None:
    client = client_of(repository, LocalFileStorage(tmp_path / "media"))

    def submit(user: str) -> str:
        headers = {"X-User": user, "Idempotency-Key": "k"}
        answer = client.post("/jobs/probe", data={"size": "1"}, files={"file": ("a", b"x")}, headers=headers)
        return str(answer.json()["job_id"])

    assert submit("ann") == submit("ann") != submit("bob")
    kept = list(store.client.scan_iter(f"{store.keys.root}:submission:*"))
    assert len(kept) == 2
    assert all(86_000_000 < int(store.client.pttl(key)) <= 86_400_000 for key in kept)


def test_a_repository_that_does_not_know_submissions_again_does_not_offer_keys(
    client: TestClient, repository: CeleryJobRepository, storage: LocalFileStorage
) -> None:
    def offered(client: TestClient) -> bool:
        return "Idempotency-Key" in json.dumps(client.get("/openapi.json").json())

    assert not offered(client)
    assert offered(client_of(repository, storage))


def test_the_hash_is_that_of_what_was_sent(client: TestClient, storage: LocalFileStorage) -> None:
    seen: list[Any] = []
    inner = storage.save_input_file

    async def watched(*given: Any) -> Any:
        seen.append(await inner(*given))
        return seen[-1]

    storage.save_input_file = watched  # type: ignore[method-assign, assignment]
    content = os.urandom(30_000)
    client.post("/jobs/probe", data={"size": "1"}, files={"file": ("a", content)})
    assert (seen[0]["hash"], seen[0]["size"]) == (hashlib.sha256(content).hexdigest(), 30_000)
