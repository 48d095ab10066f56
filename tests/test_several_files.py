"""Several files in one job."""

import asyncio
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from harness import Process, wait_until
from PIL import Image
from plain_implementations import MemoryRepository

from cl_ml_tools import FileStorage, Job
from cl_ml_tools.common.file_storage import SavedFile, UploadLimits
from cl_ml_tools.plugins.image_conversion.routes import create_router as conversion_routes
from cl_ml_tools.plugins.image_resize.routes import create_router as resize_routes
from cl_ml_tools.plugins.image_resize.schema import ImageResizeParams
from cl_ml_tools.plugins.image_resize.task import ImageResizeTask
from cl_ml_tools.stores.local_files import LocalFileStorage

SIZE = {"width": "4", "height": "4"}


class ForgetfulStorage(LocalFileStorage):
    """As the one of the 0.2.0 README: writes to the name that it is given, whatever is there."""

    async def save_input_file(self, job_id: str, filename: str | None, file: Any) -> SavedFile:
        path = self.get_input_path(job_id) / str(filename)
        content = await file.read()
        path.write_bytes(content)
        return {"filename": str(filename), "path": str(path), "size": len(content), "hash": ""}


def client_of(repository: MemoryRepository, storage: FileStorage) -> TestClient:
    app = FastAPI()
    for factory in (resize_routes, conversion_routes):
        app.include_router(factory(repository, storage, lambda: None))
    return TestClient(app, raise_server_exceptions=False)


def uploads(*names: str) -> list[tuple[str, tuple[str, bytes]]]:
    """A file for each name, each with its number as content."""
    return [("file", (name, str(number).encode())) for number, name in enumerate(names)]


@pytest.fixture
def repository() -> MemoryRepository:
    return MemoryRepository()


@pytest.fixture
def storage(tmp_path: Path) -> LocalFileStorage:
    return LocalFileStorage(tmp_path, max_file_bytes=100)


@pytest.fixture
def client(repository: MemoryRepository, storage: LocalFileStorage) -> Iterator[TestClient]:
    with client_of(repository, storage) as client:
        yield client


def names(job: Job, side: str) -> list[str]:
    paths = [Path(path) for path in job.params[f"{side}_paths"]]
    assert {path.parent.name for path in paths} == {side}
    return [path.name for path in paths]


def test_files_sent_together_make_one_job_in_their_order(
    client: TestClient, repository: MemoryRepository
) -> None:
    answer = client.post("/jobs/image_resize", data=SIZE, files=uploads("b.png", "a.png", "c.png"))
    job = repository.only_job
    assert answer.json() == {"job_id": job.job_id, "status": "queued"}
    assert names(job, "input") == ["b.png", "a.png", "c.png"]
    assert names(job, "output") == ["resized_b.png", "resized_a.png", "resized_c.png"]
    assert [Path(path).read_text() for path in job.params["input_paths"]] == ["0", "1", "2"]


@pytest.mark.parametrize("storage_class", [LocalFileStorage, ForgetfulStorage])
def test_files_of_one_name_stay_apart_on_both_sides(
    storage_class: type[LocalFileStorage], repository: MemoryRepository, tmp_path: Path
) -> None:
    with client_of(repository, storage_class(tmp_path)) as client:
        files = uploads("cat.png", "cat.png", "x/cat.png", "Cat.png")
        assert client.post("/jobs/image_resize", data=SIZE, files=files).status_code == 200
    job = repository.only_job
    assert names(job, "input") == ["cat.png", "cat-2.png", "cat-3.png", "Cat-4.png"]
    assert names(job, "output") == [f"resized_{name}" for name in names(job, "input")]
    assert [Path(path).read_text() for path in job.params["input_paths"]] == ["0", "1", "2", "3"]


def test_outputs_that_would_be_named_alike_are_numbered(
    client: TestClient, repository: MemoryRepository
) -> None:
    files = uploads("cat.png", "cat.jpg", "cat.gif")
    assert client.post("/jobs/image_conversion", data={"format": "webp"}, files=files).status_code == 200
    outputs = names(repository.only_job, "output")
    assert outputs == ["converted_cat.webp", "converted_cat-2.webp", "converted_cat-3.webp"]


def test_one_job_takes_a_hundred_files_and_no_more(client: TestClient, repository: MemoryRepository) -> None:
    most = uploads(*["cat.png"] * 100)
    assert client.post("/jobs/image_resize", data=SIZE, files=most).status_code == 200
    job = repository.only_job
    assert len(set(job.params["output_paths"])) == 100
    repository.jobs.clear()

    answer = client.post("/jobs/image_resize", data=SIZE, files=[*most, *uploads("one-more.png")])
    assert answer.status_code == 422
    (error,) = answer.json()["detail"]
    assert (error["loc"], error["input"]) == (["body", "file"], 101)
    assert error["msg"] == "One job takes at most 100 files; more were sent."
    assert not repository.jobs


def test_openapi_says_how_many_files_the_storage_takes(repository: MemoryRepository, tmp_path: Path) -> None:
    storage = LocalFileStorage(tmp_path, upload_limits=UploadLimits(max_files=7))
    schemas = client_of(repository, storage).get("/openapi.json").json()["components"]["schemas"]
    most = [schema["properties"]["file"]["maxItems"] for name, schema in schemas.items() if "resize" in name]
    assert most == [7]


def test_text_among_the_files_is_a_422(client: TestClient, repository: MemoryRepository) -> None:
    files = [*uploads("cat.png"), ("file", (None, b"only text"))]
    answer = client.post("/jobs/image_resize", data=SIZE, files=files)
    assert answer.status_code == 422
    (error,) = answer.json()["detail"]
    assert (error["loc"], error["input"]) == (["body", "file"], "only text")
    assert not repository.jobs


def test_one_file_over_the_limit_refuses_all_and_nothing_stays(
    client: TestClient, repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    files = [*uploads("a.png", "b.png"), ("file", ("big.png", bytes(101)))]
    answer = client.post("/jobs/image_resize", data=SIZE, files=files)
    assert answer.status_code == 413
    assert "big.png" in answer.json()["detail"]
    assert not repository.jobs
    assert list((storage.base_dir / "jobs").iterdir()) == []


def test_openapi_says_that_the_field_may_be_repeated(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    body = document["paths"]["/jobs/image_resize"]["post"]["requestBody"]
    reference = body["content"]["multipart/form-data"]["schema"]["$ref"]
    file = document["components"]["schemas"][reference.rsplit("/", 1)[1]]["properties"]["file"]
    assert (file["type"], file["minItems"], file["maxItems"]) == ("array", 1, 100)
    assert file["items"] == {"type": "string", "contentMediaType": "application/octet-stream"}
    assert "Repeat the field" in file["description"]


def picture(size: tuple[int, int]) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size, "teal").save(buffer, "PNG")
    return buffer.getvalue()


def test_progress_goes_by_files(tmp_path: Path) -> None:
    sources = [tmp_path / f"{number}.png" for number in range(4)]
    for source in sources:
        source.write_bytes(picture((9, 9)))
    params = ImageResizeParams(
        width=3,
        height=3,
        input_paths=[*map(str, sources)],
        output_paths=[f"{source}.out" for source in sources],
    )
    job = Job(job_id="a", task_type="image_resize", params=params.model_dump())
    reported: list[int] = []
    asyncio.run(ImageResizeTask().execute(job, params, reported.append))
    assert reported == [25, 50, 75, 100]


def test_a_worker_does_all_files_of_a_job(
    start_master: Callable[..., Process], start_worker: Callable[..., Process], tmp_path: Path
) -> None:
    master = start_master()
    start_worker("-c", "1")
    files = [("file", ("cat.png", picture((40, 20)))), ("file", ("cat.png", picture((20, 40))))]
    form = {"width": "10", "height": "10", "maintain_aspect_ratio": "true"}
    answer = httpx2.post(f"{master.url}/api/jobs/image_resize", data=form, files=files)
    job_url = f"{master.url}/api/jobs/{answer.json()['job_id']}"

    def completed() -> dict[str, Any] | None:
        job: dict[str, Any] = httpx2.get(job_url).json()
        assert job["status"] != "error", job
        return job if job["status"] == "completed" else None

    job = wait_until(completed)
    assert job is not None
    outputs = [Path(path) for path in job["task_output"]["processed_files"]]
    assert [path.name for path in outputs] == ["resized_cat.png", "resized_cat-2.png"]
    assert [Image.open(path).size for path in outputs] == [(10, 5), (5, 10)]
