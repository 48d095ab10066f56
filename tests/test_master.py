import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import pytest
from fastapi import APIRouter, Depends, FastAPI, File, Form, HTTPException, UploadFile
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from plain_implementations import MemoryRepository, install_distribution

from cl_ml_tools import FileStorage, Job, JobRepository
from cl_ml_tools.errors import PluginLoadError, StoreUnavailableError
from cl_ml_tools.master import create_master_router, get_available_plugins
from cl_ml_tools.stores.local_files import LocalFileStorage

PICTURE = {"file": ("cat.png", b"not looked at")}
WATERMARK = """
from test_master import watermark_router as create_router
"""


class User:
    id = 42


def user() -> User:
    return User()


def watermark_router(
    repository: JobRepository, file_storage: FileStorage, get_current_user: Callable[..., Any]
) -> APIRouter:
    """Routes as plugins of 0.2.0 write them: everything in the endpoint, nothing of our help."""
    router = APIRouter()

    @router.post("/jobs/watermark")
    async def submit(
        file: Annotated[UploadFile, File()],
        watermark_text: Annotated[str, Form()],
        priority: Annotated[int, Form()] = 5,
        user: Any = Depends(get_current_user),  # noqa: B008 - as it was written then
    ) -> dict[str, str]:
        job_id = str(uuid4())
        file_storage.create_job_directory(job_id)
        saved = await file_storage.save_input_file(job_id, file.filename or "", file)
        output = file_storage.get_output_path(job_id) / f"watermarked_{file.filename}"
        params = {
            "input_paths": [saved["path"]],
            "output_paths": [str(output)],
            "watermark_text": watermark_text,
        }
        job = Job(job_id=job_id, task_type="watermark", params=params)
        repository.add_job(job, created_by=user.id if user else None, priority=priority)
        return {"job_id": job_id, "status": "queued"}

    @router.get("/watermarks")
    async def follow() -> None:
        raise StoreUnavailableError("away")

    @router.get("/watermarks/stream")
    async def stream() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            raise StoreUnavailableError("away in the midst")

        return StreamingResponse(chunks())

    @router.get("/watermarks/teapot")
    async def teapot() -> None:
        raise HTTPException(418, headers={"X-Own": "kept"})

    return router


def install_routes(
    monkeypatch: pytest.MonkeyPatch, site: Path, distribution: str, name: str, source: str
) -> None:
    module = f"stranger_{name}_routes"
    install_distribution(
        monkeypatch,
        site / distribution,
        distribution,
        routes={name: f"{module}:create_router"},
        modules={module: source},
    )


def router_source(*routes: str) -> str:
    """The source of a module whose router answers e.g. ``post /jobs/x``."""
    lines = [f"    router.{method}({path!r})(lambda: 1)" for method, path in (r.split() for r in routes)]
    return "\n".join(
        [
            "from fastapi import APIRouter",
            "def create_router(*given):",
            "    router = APIRouter()",
            *lines,
            "    return router",
        ]
    )


@pytest.fixture
def repository() -> MemoryRepository:
    return MemoryRepository()


@pytest.fixture
def storage(tmp_path: Path) -> LocalFileStorage:
    return LocalFileStorage(tmp_path / "media", max_file_bytes=1000)


@pytest.fixture
def client(
    repository: MemoryRepository,
    storage: LocalFileStorage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[TestClient]:
    """An application with the built-in plugins and the watermark of a stranger."""
    install_routes(monkeypatch, tmp_path, "watermark-plugin", "watermark", WATERMARK)
    app = FastAPI()
    app.include_router(create_master_router(repository, storage, user), prefix="/api")
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_all_plugins_are_available_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_routes(monkeypatch, tmp_path, "watermark-plugin", "watermark", WATERMARK)
    assert get_available_plugins() == [
        "contact_sheet",
        "image_conversion",
        "image_hash",
        "image_metadata",
        "image_resize",
        "image_thumbnail",
        "image_watermark",
        "watermark",
    ]


def test_the_built_in_plugins_take_uploads(client: TestClient, repository: MemoryRepository) -> None:
    answer = client.post("/api/jobs/image_resize", data={"width": 3, "height": 4}, files=PICTURE)
    assert answer.status_code == 200
    assert repository.only_job.task_type == "image_resize"
    assert repository.creators == {answer.json()["job_id"]: "42"}


def test_routes_written_for_0_2_0_work_as_they_stand(
    client: TestClient, repository: MemoryRepository, storage: LocalFileStorage
) -> None:
    form = {"watermark_text": "mine", "priority": "7"}
    answer = client.post("/api/jobs/watermark", data=form, files=PICTURE)
    job = repository.only_job
    assert answer.json() == {"job_id": job.job_id, "status": "queued"}
    assert job.params["output_paths"] == [str(storage.get_output_path(job.job_id) / "watermarked_cat.png")]
    assert repository.creators[job.job_id] == 42  # type: ignore[comparison-overlap]  # as the plugin passes it
    assert repository.priorities[job.job_id] == 7


def test_a_repository_on_sqlite_works(storage: LocalFileStorage, tmp_path: Path) -> None:
    class SQLiteRepository(MemoryRepository):
        """Binds a job's fields to columns, as plain database drivers do."""

        connection = sqlite3.connect(tmp_path / "jobs.db", check_same_thread=False)

        def add_job(self, job: Job, created_by: str | None = None, priority: int | None = None) -> str:
            self.connection.execute("CREATE TABLE jobs (id, task_type, status, creator, priority)")
            row = (job.job_id, job.task_type, job.status, created_by, priority)
            self.connection.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?)", row)
            self.connection.commit()
            return job.job_id

    repository = SQLiteRepository()
    app = FastAPI()
    app.include_router(create_master_router(repository, storage, user))
    with TestClient(app) as client:
        answer = client.post("/jobs/image_conversion", data={"format": "WEBP"}, files=PICTURE)
    (row,) = repository.connection.execute("SELECT * FROM jobs")
    repository.connection.close()
    assert row == (answer.json()["job_id"], "image_conversion", "queued", "42", 5)


# --- errors of this package, raised by whoever


def test_a_strangers_route_answers_503_with_retry_after_when_the_store_is_away(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = client.get("/api/watermarks")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "Try again in 5 seconds" in answer.json()["detail"]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "Answered 503: away"
    ]


def test_a_strangers_route_answers_413_over_the_limit_of_the_storage(client: TestClient) -> None:
    file = {"file": ("big.png", bytes(1001))}
    answer = client.post("/api/jobs/watermark", data={"watermark_text": "x"}, files=file)
    assert answer.status_code == 413


def test_a_users_dependency_that_finds_the_store_away_is_a_503(storage: LocalFileStorage) -> None:
    def user_from_store() -> None:
        raise StoreUnavailableError("away")

    app = FastAPI()
    app.include_router(create_master_router(MemoryRepository(), storage, user_from_store))
    with TestClient(app) as client:
        answer = client.post("/jobs/image_resize", data={"width": 3, "height": 4}, files=PICTURE)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_answers_that_a_plugin_chose_itself_stay_as_they_are(client: TestClient) -> None:
    answer = client.get("/api/watermarks/teapot")
    assert (answer.status_code, answer.headers["x-own"]) == (418, "kept")


def test_an_error_in_the_midst_of_a_stream_is_not_made_an_answer(
    storage: LocalFileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_routes(monkeypatch, tmp_path, "watermark-plugin", "watermark", WATERMARK)
    app = FastAPI()
    app.include_router(create_master_router(MemoryRepository(), storage, user))
    # The stream has begun: the server gets the error as it is, and not "response already started".
    with TestClient(app) as client, pytest.raises(StoreUnavailableError, match="in the midst"):
        client.get("/watermarks/stream")


# --- plugins that do not fit


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import surely_not_installed", "No module named 'surely_not_installed'"),
        ("create_router = None", "is a NoneType and cannot be called"),
        ("def create_router(): ...", "cannot make its routes: TypeError"),
        (
            "def create_router(*given): raise OSError('no licence')",
            "cannot make its routes: OSError: no licence",
        ),
        (
            "from cl_ml_tools import BaseJobParams\n"
            "from cl_ml_tools.submission import upload_route\n"
            "class Given(BaseJobParams):\n    box: dict[str, int] = {}\n"
            "create_router = upload_route('broken', Given, output_name=lambda name, _: name)",
            "cannot make its routes: ValueError: Given.box has a type that a form cannot carry",
        ),
        ("def create_router(*given): return {}", "returned a dict. Let its factory return an APIRouter"),
    ],
)
def test_a_plugin_that_fails_is_named(
    source: str,
    told: str,
    repository: MemoryRepository,
    storage: LocalFileStorage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install_routes(monkeypatch, tmp_path, "broken-plugin", "broken", source)
    with pytest.raises(RuntimeError) as caught:
        create_master_router(repository, storage, user)
    assert isinstance(caught.value, PluginLoadError)
    assert str(caught.value).startswith("plugin 'broken' of broken-plugin 1.0 ")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("post /jobs/blur", "post /jobs/blur"),
        ("get /blurs/{id}", "get /blurs/{blur_id}"),
        ("get /blurs/{path:path}", "get /blurs/{rest:path}"),
    ],
)
def test_two_plugins_that_answer_at_one_path_are_refused_and_both_named(
    first: str,
    second: str,
    repository: MemoryRepository,
    storage: LocalFileStorage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install_routes(monkeypatch, tmp_path, "one", "one", router_source(first))
    install_routes(monkeypatch, tmp_path, "two", "two", router_source("get /other", second))
    method, path = second.upper().split()[0], second.split()[1]
    with pytest.raises(PluginLoadError) as caught:
        create_master_router(repository, storage, user)
    assert str(caught.value).startswith(f"Two plugins answer {method} {path}: plugin 'one' of one 1.0 ")
    assert "plugin 'two' of two 1.0" in str(caught.value)


def test_a_collision_deep_in_a_router_is_found(
    repository: MemoryRepository, storage: LocalFileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested = "\n".join(
        [
            router_source("post /image_resize").replace("create_router", "inner"),
            "def create_router(*given):",
            "    outer = APIRouter()",
            "    outer.include_router(inner(), prefix='/jobs')",
            "    return outer",
        ]
    )
    install_routes(monkeypatch, tmp_path, "nested", "nested", nested)
    with pytest.raises(PluginLoadError, match="Two plugins answer POST /jobs/image_resize"):
        create_master_router(repository, storage, user)


def test_one_path_with_two_methods_may_belong_to_two_plugins(
    repository: MemoryRepository, storage: LocalFileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_routes(monkeypatch, tmp_path, "one", "one", router_source("get /blurs"))
    install_routes(monkeypatch, tmp_path, "two", "two", router_source("post /blurs", "get /blurs/{id}"))
    create_master_router(repository, storage, user)
