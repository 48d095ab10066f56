"""Steps that chain: outputs of a job that are the inputs of the next one."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from harness import Process, all_jobs, ended
from job_http import ADMIN, user_of_header
from PIL import Image
from plain_implementations import MemoryRepository
from pydantic import Field

from cl_ml_tools import BaseJobParams, FileStorage, Job, JobRepository
from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.common.file_storage import ReusesOutputs, UploadLimits
from cl_ml_tools.common.job_leases import Outcome, Owner
from cl_ml_tools.common.schemas import JobStatus
from cl_ml_tools.stores.local_files import LocalFileStorage
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.submission import admins_told, upload_route

CONTENT = {"b.png": b"first", "a.png": b"second", "deep/a.png": b"beside"}


class Params(BaseJobParams):
    size: int = Field(default=1, ge=1, le=10)


ROUTE = upload_route("probe", Params, output_name=lambda name, _: f"made_of_{name}")


def client_of(repository: JobRepository, storage: FileStorage) -> TestClient:
    app = FastAPI()
    told = admins_told(lambda user: user["id"] == ADMIN)
    app.include_router(ROUTE(repository, storage, user_of_header), dependencies=[Depends(told)])
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def storage(tmp_path: Path) -> LocalFileStorage:
    return LocalFileStorage(tmp_path / "media", upload_limits=UploadLimits(max_files=4))


@pytest.fixture
def client(repository: CeleryJobRepository, storage: LocalFileStorage) -> Iterator[TestClient]:
    with client_of(repository, storage) as client:
        yield client


def claim(store: RedisJobStore, job_id: str) -> None:
    store.claim(job_id, token="t", owner=Owner("n", 1), sequence=0, lease_seconds=30)


def finish(store: RedisJobStore, job_id: str, status: JobStatus = JobStatus.COMPLETED) -> None:
    store.finish(job_id, token="t", outcome=Outcome(status, task_output={}))


@pytest.fixture
def first(store: RedisJobStore, storage: LocalFileStorage) -> str:
    """Ann's completed job with the outputs of `CONTENT`: two that its parameters name, one beside them."""
    storage.create_job_directory("first")
    folder = storage.get_output_path("first")
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    paths = {"input_paths": ["/b", "/a"], "output_paths": [str(folder / "b.png"), str(folder / "a.png")]}
    store.add(Job(job_id="first", task_type="probe", params=paths), created_by="ann")
    claim(store, "first")
    finish(store, "first")
    return "first"


def post(
    client: TestClient, user: str | None = "ann", files: Any = None, key: str = "", **fields: Any
) -> httpx2.Response:
    headers = ({"X-User": user} if user else {}) | ({"Idempotency-Key": key} if key else {})
    # A form of fields alone is sent with the other media type.
    return client.post("/jobs/probe", data=fields, files=files, headers=headers)


def inputs_of(repository: JobRepository, answer: httpx2.Response) -> list[Path]:
    assert answer.status_code == 200, answer.text
    job = repository.get_job(answer.json()["job_id"])
    assert job is not None
    return [Path(path) for path in job.params["input_paths"]]


def kept(storage: LocalFileStorage) -> list[str]:
    return sorted(path.name for path in (storage.base_dir / "jobs").glob("*"))


# --- what becomes an input


def test_the_outputs_of_a_job_become_the_inputs_of_the_next_in_their_order(
    client: TestClient, first: str, repository: CeleryJobRepository
) -> None:
    inputs = inputs_of(repository, post(client, from_job=first))
    assert [(path.name, path.read_bytes()) for path in inputs] == [
        ("b.png", b"first"),
        ("a.png", b"second"),
        ("a-2.png", b"beside"),
    ]
    job = all_jobs(repository.store)[0]
    assert [Path(path).name for path in job.params["output_paths"]] == [
        "made_of_b.png",
        "made_of_a.png",
        "made_of_a-2.png",
    ]
    assert job.created_by == "ann"


def test_inputs_stay_when_the_job_that_made_them_goes(
    client: TestClient, first: str, repository: CeleryJobRepository, storage: LocalFileStorage
) -> None:
    inputs = inputs_of(repository, post(client, from_job=first))
    assert inputs[0].samefile(storage.get_output_path(first) / "b.png"), "no byte is copied"
    repository.remove_job(first)
    storage.cleanup_job(first)
    assert [path.read_bytes() for path in inputs] == list(CONTENT.values())


def test_outputs_can_be_chosen_and_put_in_order(
    client: TestClient, first: str, repository: CeleryJobRepository
) -> None:
    inputs = inputs_of(repository, post(client, from_job=first, from_output=["deep/a.png", "b.png"]))
    assert [path.read_bytes() for path in inputs] == [b"beside", b"first"]


def test_files_may_be_sent_beside_and_come_last(
    client: TestClient, first: str, repository: CeleryJobRepository
) -> None:
    logo = {"file": ("b.png", b"logo")}
    inputs = inputs_of(repository, post(client, files=logo, from_job=first, from_output="b.png"))
    assert [path.read_bytes() for path in inputs] == [b"first", b"logo"]
    assert len({path.name for path in inputs}) == 2


def test_a_blank_field_is_one_that_was_left_out(client: TestClient, repository: CeleryJobRepository) -> None:
    sent = {"file": ("b.png", b"x")}
    assert len(inputs_of(repository, post(client, files=sent, from_job="", from_output=""))) == 1


# --- where there can be no link


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP])
def test_where_no_link_can_be_made_outputs_are_copied(
    number: int,
    client: TestClient,
    first: str,
    repository: CeleryJobRepository,
    storage: LocalFileStorage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    inputs = inputs_of(repository, post(client, from_job=first))
    assert [path.read_bytes() for path in inputs] == list(CONTENT.values())
    assert not inputs[0].samefile(storage.get_output_path(first) / "b.png")
    # Now a copy would leave too little room.
    storage.min_free_bytes = 2**62
    assert post(client, from_job=first).status_code == 507
    assert len(kept(storage)) == 2


def test_a_link_needs_no_room(
    client: TestClient, first: str, repository: CeleryJobRepository, storage: LocalFileStorage
) -> None:
    storage.min_free_bytes = 2**62
    assert len(inputs_of(repository, post(client, from_job=first))) == 3


class Plain:
    """A storage with nothing but the five methods of 0.2.0."""

    def __init__(self, inner: LocalFileStorage) -> None:
        self.create_job_directory, self.cleanup_job = inner.create_job_directory, inner.cleanup_job
        self.get_input_path, self.get_output_path = inner.get_input_path, inner.get_output_path

    async def save_input_file(self, job_id: str, filename: str, file: Any) -> dict[str, Any]:
        path = self.get_input_path(job_id) / filename
        path.write_bytes(await file.read())
        await file.seek(0)
        return {"filename": filename, "path": str(path)}


def test_any_storage_can_do_it(
    first: str, repository: CeleryJobRepository, storage: LocalFileStorage
) -> None:
    plain = Plain(storage)
    assert not isinstance(plain, ReusesOutputs)
    with client_of(repository, plain) as client:
        inputs = inputs_of(repository, post(client, from_job=first))
    assert [path.read_bytes() for path in inputs] == list(CONTENT.values())


# --- what cannot be had


def refusal(answer: httpx2.Response) -> tuple[int, list[Any], str]:
    assert answer.headers["content-type"] == "application/problem+json"
    (fault,) = answer.json()["detail"]
    return answer.status_code, fault["loc"], fault["msg"]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"from_job": "../first"}, ["body", "from_job"]),
        ({"from_job": "x" * 129}, ["body", "from_job"]),
        ({"from_job": "\0"}, ["body", "from_job"]),
        ({"from_job": ["first", "first"]}, ["body", "from_job"]),
        ({"from_job": "first", "from_output": "../../x/output/b.png"}, ["body", "from_output", 0]),
        ({"from_job": "first", "from_output": ["b.png", "none.png"]}, ["body", "from_output", 1]),
        ({"from_job": "first", "from_output": ["b.png"] * 5}, ["body", "from_output"]),
        ({"from_output": "b.png"}, ["body", "from_output"]),
        ({"size": "3"}, ["body", "file"]),
    ],
)
@pytest.mark.parametrize("multipart", [True, False])
def test_nonsense_is_a_422_that_names_the_field(
    fields: dict[str, Any],
    place: list[Any],
    multipart: bool,
    client: TestClient,
    first: str,
    storage: LocalFileStorage,
) -> None:
    # A part that is no field of ours makes it the other media type.
    files = {"other": ("x", b"x")} if multipart else None
    status, named, _ = refusal(post(client, files=files, **fields))
    assert (status, named) == (422, place)
    assert kept(storage) == ["first"]


def test_files_and_outputs_together_are_no_more_than_a_job_takes(
    client: TestClient, first: str, storage: LocalFileStorage
) -> None:
    files = [("file", (f"{number}", b"x")) for number in range(2)]
    status, place, told = refusal(post(client, files=files, from_job=first))
    assert (status, place) == (422, ["body", "from_job"])
    assert told == "One job takes at most 4 files; these would be 5."
    assert kept(storage) == ["first"]


def test_a_job_without_outputs_has_nothing_to_give(
    client: TestClient, store: RedisJobStore, storage: LocalFileStorage
) -> None:
    store.add(Job(job_id="empty", task_type="probe", params={}), created_by="ann")
    claim(store, "empty")
    finish(store, "empty")
    status, place, told = refusal(post(client, from_job="empty"))
    assert (status, place, told) == (422, ["body", "from_job"], "Job 'empty' has no outputs.")
    assert kept(storage) == []


@pytest.mark.parametrize("status", ["queued", "processing", "error", "cancelled"])
def test_a_job_that_is_not_completed_is_a_409(
    status: str, client: TestClient, store: RedisJobStore, storage: LocalFileStorage
) -> None:
    store.add(Job(job_id="early", task_type="probe", params={}), created_by="ann")
    storage.create_job_directory("early")
    (storage.get_output_path("early") / "half.png").write_bytes(b"x")
    if status != "queued":
        claim(store, "early")
    if status in ("error", "cancelled"):
        finish(store, "early", JobStatus(status))
    answer = post(client, from_job="early")
    assert answer.status_code == 409
    assert (
        answer.json()["detail"] == f"Job 'early' is {status}: its outputs can be used once it is completed."
    )
    assert kept(storage) == ["early"]


@pytest.mark.parametrize(("user", "may"), [("ann", True), ("bob", False), (ADMIN, True), (None, False)])
def test_only_its_creator_and_an_admin_can_use_a_jobs_outputs(
    user: str | None, may: bool, client: TestClient, first: str, storage: LocalFileStorage
) -> None:
    answer = post(client, user, from_job=first)
    assert answer.status_code == (200 if may else 404)
    if not may:
        unknown = post(client, user, from_job="unknown")
        assert answer.text.replace("first", "unknown") == unknown.text, "as if there were none"
        assert kept(storage) == ["first"]


def test_a_job_that_is_removed_meanwhile_is_a_404_and_leaves_nothing(
    client: TestClient, first: str, storage: LocalFileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = storage.reuse_output

    def remove_first(job_id: str, source_job_id: str, name: str) -> Any:
        # One is there already when the others go.
        reused = inner(job_id, source_job_id, name)
        storage.cleanup_job(source_job_id)
        return reused

    monkeypatch.setattr(storage, "reuse_output", remove_first)
    assert post(client, from_job=first).status_code == 404
    assert kept(storage) == []


def test_who_says_first_from_which_job_is_refused_before_a_file_is_received(
    client: TestClient, storage: LocalFileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "save_input_file", None)
    answer = post(client, files={"file": ("a", b"x")}, from_job="unknown")
    assert answer.status_code == 404
    assert kept(storage) == []


def test_a_repository_that_does_not_know_whose_a_job_is_refuses_users_and_serves_nobody(
    storage: LocalFileStorage, first: str
) -> None:
    repository = MemoryRepository()
    repository.add_job(Job(job_id=first, task_type="probe", params={}, status=JobStatus.COMPLETED))
    with client_of(repository, storage) as client:
        status, place, told = refusal(post(client, "ann", from_job=first))
        assert (status, place) == (422, ["body", "from_job"])
        assert "does not know whose a job is" in told
        assert kept(storage) == ["first"]
        assert len(inputs_of(repository, post(client, None, from_job=first))) == 3


def test_a_job_that_is_refused_leaves_no_links(
    client: TestClient, first: str, storage: LocalFileStorage
) -> None:
    assert post(client, from_job=first, size="0").status_code == 422
    assert kept(storage) == ["first"]
    assert all((storage.get_output_path(first) / name).stat().st_nlink == 1 for name in CONTENT)


# --- the same twice


def test_a_repeated_submission_is_known_by_the_job_and_the_outputs_that_it_uses(
    client: TestClient, first: str, store: RedisJobStore, storage: LocalFileStorage
) -> None:
    accepted = post(client, key="k", from_job=first)
    again = post(client, key="k", from_job=first)
    assert again.json()["job_id"] == accepted.json()["job_id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert len(kept(storage)) == 2
    # The same bytes from elsewhere are another submission, and so are other outputs.
    files = [("file", (Path(name).name, content)) for name, content in CONTENT.items()]
    for other in (
        post(client, key="k", from_job=first, from_output="b.png"),
        post(client, key="k", from_job=first, from_output=["a.png", "b.png", "deep/a.png"]),
        post(client, key="k", files=files),
    ):
        assert other.status_code == 409, other.text
    assert len(kept(storage)) == 2
    assert len(all_jobs(store)) == 2


# --- how it is described


def test_openapi_says_that_a_form_needs_files_or_a_job(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/jobs/probe"]["post"]
    body = operation["requestBody"]
    schema = body["content"]["multipart/form-data"]["schema"]
    assert body["required"] is True
    assert schema["anyOf"] == [{"required": ["file"]}, {"required": ["from_job"]}]
    form = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    assert "required" not in form
    assert form["properties"]["from_output"]["items"] == {"type": "string"}
    assert "default" not in form["properties"]["file"]
    assert {"404", "409"} <= set(operation["responses"])
    assert "from_job" in json.dumps(operation["responses"]["404"])


# --- for real


def test_a_picture_is_resized_and_then_converted_without_a_second_upload(
    start_master: Callable[..., Process],
    start_worker: Callable[..., Process],
    repository: CeleryJobRepository,
    tmp_path: Path,
) -> None:
    Image.new("RGB", (40, 24), "teal").save(tmp_path / "a.png")
    start_worker("-c", "1")
    jobs = f"{start_master().url}/api/jobs"
    upload = {"file": ("a.png", (tmp_path / "a.png").read_bytes())}
    size = {"width": "8", "height": "6"}
    resized = httpx2.post(f"{jobs}/image_resize", files=upload, data=size, timeout=60).json()["job_id"]
    assert ended(repository, resized).status == "completed"
    chained = {"from_job": resized, "format": "webp"}
    converted = httpx2.post(f"{jobs}/image_conversion", data=chained, timeout=60).json()["job_id"]
    assert httpx2.delete(f"{jobs}/{resized}", timeout=60).status_code == 204
    assert ended(repository, converted).status == "completed"
    (output,) = httpx2.get(f"{jobs}/{converted}/outputs", timeout=60).json()
    assert output["name"] == "converted_resized_a.webp"
    content = httpx2.get(f"{jobs}/{converted}/outputs/{output['name']}", timeout=60).content
    (tmp_path / "out.webp").write_bytes(content)
    with Image.open(tmp_path / "out.webp") as image:
        assert image.size == (8, 6)
