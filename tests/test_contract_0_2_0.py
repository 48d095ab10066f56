"""What was written for cl_ml_tools 0.2.0 runs as it stands: the code of its README, taken from there at run time."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from harness import PROBE_PLUGINS, Environment, Process, free_port, wait_until
from PIL import Image, ImageChops
from plain_implementations import MemoryRepository, install_distribution

from cl_ml_tools.master import create_master_router
from cl_ml_tools.stores.local_files import LocalFileStorage

README = (Path(__file__).parent / "contract" / "README-0.2.0.md").read_text()

# The README's toml block stands behind this; all that it leaves to the reader is a name and a build system.
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "my-watermark"
version = "1.0"

[tool.hatch.build.targets.wheel]
packages = ["my_app"]
"""


def block(language: str, mark: str) -> str:
    """The one code block of the README that has ``mark`` in it."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    (found,) = [code for code in blocks if mark in code]
    return str(found)


def picture_bytes(size: tuple[int, int] = (64, 48), colour: str = "navy") -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def in_folder(folder: Path, *command: str) -> list[str]:
    """The command, run in ``folder``."""
    return ["sh", "-c", 'cd "$0" && exec "$@"', str(folder), *command]


def ended(url: str, job_id: str) -> dict[str, Any]:
    """The job as the master shows it, once it is at its end."""

    def look() -> dict[str, Any] | None:
        job: dict[str, Any] = httpx2.get(f"{url}/api/jobs/{job_id}").raise_for_status().json()
        return job if job["status"] not in ("queued", "processing") else None

    job = wait_until(look, why=f"job {job_id} ends")
    assert job is not None
    return job


def upload(url: str, task_type: str, form: dict[str, str], name: str = "cat.png") -> str:
    file = {"file": (name, picture_bytes(), "image/png")}
    answer = httpx2.post(f"{url}/api/jobs/{task_type}", data=form, files=file)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "queued"
    return str(answer.json()["job_id"])


def is_watermarked(path: Path) -> bool:
    with Image.open(path) as image, Image.open(BytesIO(picture_bytes())) as original:
        return image.size == original.size and ImageChops.difference(image, original).getbbox() is not None


@pytest.fixture(scope="session")
def plugin_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the README's watermark plugin, installed by pip as a distribution of its own."""
    project, site = tmp_path_factory.mktemp("watermark"), tmp_path_factory.mktemp("site")
    package = project / "my_app" / "plugins" / "watermark"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for name in ("schema.py", "task.py", "routes.py"):
        (package / name).write_text(block("python", f"# {name}\n"))
    (project / "pyproject.toml").write_text(PROJECT + block("toml", "cl_ml_tools.tasks"))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(project)], check=True)
    return site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with the README's application, which keeps its database and its files beside it."""
    folder = tmp_path / "application"
    package = folder / "my_app"
    package.mkdir(parents=True)
    for name, mark in {
        "repository.py": "class SQLiteJobRepository",
        "storage.py": "class LocalFileStorage",
        "main.py": "app = FastAPI(",
        "worker.py": "worker = Worker(",
    }.items():
        (package / name).write_text(block("python", mark))
    return folder


@pytest.fixture
def start(folder: Path, plugin_site: Path, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start a Python module of the README's application as a process; all end with the test."""
    path = os.pathsep.join(map(str, (folder, plugin_site, PROBE_PLUGINS)))
    environment = Environment({"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}, tmp_path)
    started: list[Process] = []

    def start(*module: str) -> Process:
        process = environment.process(in_folder(folder, sys.executable, "-m", *module), {})
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill_group()


def start_app(start: Callable[..., Process]) -> str:
    port = str(free_port())
    start("uvicorn", "my_app.main:app", "--port", port).wait_for("Application startup complete")
    return f"http://127.0.0.1:{port}"


# --- its application and its worker


def test_uploads_to_its_app_are_processed_by_its_worker(start: Callable[..., Process], folder: Path) -> None:
    url = start_app(start)
    marked = upload(url, "watermark", {"watermark_text": "mine"})
    resized = upload(url, "image_resize", {"width": "32", "height": "32", "maintain_aspect_ratio": "true"})
    converted = upload(url, "image_conversion", {"format": "jpeg", "quality": "70"})
    waiting = httpx2.get(f"{url}/api/jobs/{marked}").json()
    assert (waiting["status"], waiting["progress"]) == ("queued", 0)

    start("my_app.worker").wait_for("Worker started. Supported tasks: ['contact_sheet', 'image_conversion',")
    jobs = [ended(url, job_id) for job_id in (marked, resized, converted)]
    assert [(job["status"], job["progress"], job["error_message"]) for job in jobs] == [
        ("completed", 100, None)
    ] * 3

    outputs = folder / "media_storage" / "jobs"
    assert is_watermarked(outputs / marked / "output" / "watermarked_cat.png")
    with Image.open(outputs / resized / "output" / "resized_cat.png") as image:
        assert image.size == (32, 24)
    with Image.open(outputs / converted / "output" / "converted_cat.jpg") as image:
        assert image.format == "JPEG"
    files = [Path(job["task_output"]["processed_files"][0]) for job in jobs]
    assert all((folder / file).is_file() for file in files)
    assert jobs[1]["task_output"]["dimensions"] == {"width": 32, "height": 24}
    assert (jobs[2]["task_output"]["format"], jobs[2]["task_output"]["quality"]) == ("jpeg", 70)


def test_what_its_worker_cannot_do_is_the_jobs_error_and_it_goes_on(start: Callable[..., Process]) -> None:
    url = start_app(start)
    file = {"file": ("cat.png", b"no picture", "image/png")}
    form = {"watermark_text": "mine", "priority": "10"}
    bad = httpx2.post(f"{url}/api/jobs/watermark", data=form, files=file).json()["job_id"]
    good = upload(url, "watermark", {"watermark_text": "mine"})
    start("my_app.worker")
    assert ended(url, good)["status"] == "completed"
    job = ended(url, bad)
    assert (job["status"], job["task_output"]) == ("error", None)
    assert "cannot identify image file" in job["error_message"]


def test_uploads_that_come_at_once_all_reach_its_repository(start: Callable[..., Process]) -> None:
    url = start_app(start)
    with ThreadPoolExecutor(12) as pool:
        forms = [("image_conversion", {"format": "png"}), ("watermark", {"watermark_text": "x"})] * 12
        ids = list(pool.map(lambda form: upload(url, *form), forms))
    assert len(set(ids)) == 24
    for job_id in ids:
        assert httpx2.get(f"{url}/api/jobs/{job_id}").json()["status"] == "queued"


def test_two_of_its_workers_racing_run_each_job_once(
    start: Callable[..., Process], folder: Path, tmp_path: Path
) -> None:
    start_app(start)  # makes the database
    gate, log = tmp_path / "gate", tmp_path / "probe.log"
    first = [["wait_for", str(gate)]]
    with sqlite3.connect(folder / "jobs.db") as database:
        for number in range(60):
            # The two most urgent ones keep their workers busy until both have one.
            params = {"log": str(log), "steps": first if number < 2 else []}
            row = (f"job-{number}", "probe", json.dumps(params), 9 if number < 2 else 5)
            insert = "INSERT INTO jobs (job_id, task_type, params, priority) VALUES (?, ?, ?, ?)"
            database.execute(insert, row)

    workers = [start("my_app.worker") for _ in range(2)]
    wait_until(lambda: log.exists() and log.read_text().count("start") == 2, why="each has a job")
    gate.touch()

    def left() -> int:
        with sqlite3.connect(folder / "jobs.db") as database:
            ((count,),) = database.execute("SELECT count(*) FROM jobs WHERE status != 'completed'")
        return int(count)

    wait_until(lambda: left() == 0, why="all are completed")
    lines = [line.split() for line in log.read_text().splitlines()]
    assert sorted(job_id for job_id, word, _ in lines if word == "start") == sorted(
        f"job-{number}" for number in range(60)
    )
    assert {int(pid) for _, _, pid in lines} == {worker.pid for worker in workers}


# --- its plugin on our master and our Celery workers


def test_its_plugin_runs_on_our_master_and_celery_worker(
    start_master: Callable[..., Process],
    start_worker: Callable[..., Process],
    plugin_site: Path,
    tmp_path: Path,
) -> None:
    master = start_master(PYTHONPATH=str(plugin_site))
    start_worker("-c", "1", PYTHONPATH=str(plugin_site))
    job = ended(master.url, upload(master.url, "watermark", {"watermark_text": "mine", "priority": "7"}))
    assert (job["status"], job["progress"], job["priority"]) == ("completed", 100, 7)
    directory = tmp_path / "media" / "jobs" / job["job_id"]
    assert job["task_output"] == {"processed_files": [str(directory / "output" / "watermarked_cat.png")]}
    assert is_watermarked(directory / "output" / "watermarked_cat.png")


def test_a_hostile_file_name_leads_nowhere_through_its_route(
    start_master: Callable[..., Process],
    start_worker: Callable[..., Process],
    plugin_site: Path,
    tmp_path: Path,
) -> None:
    master = start_master(PYTHONPATH=str(plugin_site))
    start_worker("-c", "1", PYTHONPATH=str(plugin_site))
    names = [
        "../../evil.png",
        "../../../../evil.png",
        "/../../../../../evil.png",
        "..\\..\\evil.png",
        "a/b/cat.png",
    ]
    before = set(tmp_path.rglob("*"))
    ids = [upload(master.url, "watermark", {"watermark_text": "x"}, name) for name in names]
    jobs = [ended(master.url, job_id) for job_id in ids]
    assert {job["status"] for job in jobs} == {"completed"}
    new = [path for path in set(tmp_path.rglob("*")) - before if path.is_file()]
    kept = {job_id: tmp_path / "media" / "jobs" / job_id for job_id in ids}
    expected = [
        directory / part
        for directory, name in zip(kept.values(), ["evil.png"] * 4 + ["cat.png"], strict=True)
        for part in (f"input/{name}", f"output/watermarked_{name}")
    ]
    assert sorted(new) == sorted(expected)
    assert all(len(list((directory / "output").iterdir())) == 1 for directory in kept.values())


STREAMING_ROUTES = """
from fastapi import APIRouter, Request, UploadFile

def create_router(*given):
    router = APIRouter()

    @router.post("/stream")
    async def stream(request: Request):
        return {"bytes": sum([len(chunk) async for chunk in request.stream()])}

    @router.post("/names")
    async def names(one: UploadFile, more: list[UploadFile]):
        return [one.filename, *(file.filename for file in more)]

    return router
"""


def test_every_uploads_name_is_safe_for_a_strangers_route_and_a_stream_stays_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_distribution(
        monkeypatch,
        tmp_path / "site",
        "streaming",
        routes={"streaming": "streaming_routes:create_router"},
        modules={"streaming_routes": STREAMING_ROUTES},
    )
    app = FastAPI()
    app.include_router(create_master_router(MemoryRepository(), LocalFileStorage(tmp_path), lambda: None))
    files = [("one", ("../a.png", b"1")), ("more", ("b..png", b"2")), ("more", ("/c/d e.png", b"3"))]
    with TestClient(app) as client:
        assert client.post("/names", files=files).json() == ["a.png", "b.png", "d e.png"]
        assert client.post("/stream", files=files).json()["bytes"] > 100
