"""README and docs/ say what is so: every block of code is executed, or checked as far as it can be."""

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from itertools import dropwhile
from pathlib import Path
from typing import Any

import httpx2
import pytest
from doc_blocks import PAGES, Block, anchors_of, blocks_of, commands_of, request_of, write_files
from fastapi import FastAPI
from fastapi.testclient import TestClient
from harness import PROBE_PLUGINS, ROOT, Environment, Process, all_jobs, ended, free_port, wait_until
from PIL import Image
from plain_implementations import MemoryRepository

from cl_ml_tools.app import create_celery_app
from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.settings import PREFIX, Settings
from cl_ml_tools.stores.local_files import LocalFileStorage
from cl_ml_tools.submission import upload_route

DOCS = ROOT / "docs"
BLOCKS = [block for page in PAGES for block in blocks_of(page)]

NOT_RUN = [
    "production.md: the server's configuration, not ours",
    "production.md: systemd's configuration, not ours",
]
"""All blocks that nothing looks into, and why."""

NOT_OURS = {"curl", "export", "cd", "pip", "python", "python3"}
"""First words of commands that are not run here. What ``curl`` asks for is checked against the routes."""


def blocks(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    known = {"python", "bash", "toml", "yaml", "mermaid", "json"}
    assert [str(block) for block in BLOCKS if block.language not in known and not block.not_run] == []
    assert [f"{block.page.name}: {block.not_run}" for block in BLOCKS if block.not_run] == NOT_RUN
    unnamed = [str(block) for block in blocks("python") if block.file is None]
    assert len(unnamed) == 1, "one is a script, which is run; all others are files"
    assert "quickstart.md" in unnamed[0]


def test_every_diagram_is_of_a_kind_that_mermaid_knows() -> None:
    assert {block.text.split()[0] for block in blocks("mermaid")} == {"flowchart", "sequenceDiagram"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_file_of_a_page_passes_the_type_checker(page: Path, tmp_path: Path) -> None:
    files = [str(path.relative_to(tmp_path)) for path in write_files(page, tmp_path) if path.suffix == ".py"]
    if not files:
        return
    # The README leaves the hints away, to be short.
    strict = [] if page.name == "README.md" else ["--strict"]
    options = ["--explicit-package-bases", "--namespace-packages", "--check-untyped-defs"]
    quiet = ["--no-error-summary", "--config-file", str(mypy_configuration(tmp_path))]
    # One for all pages, which read the same package.
    cache = ["--cache-dir", str(tmp_path.parent / "mypy-cache")]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *strict, *options, *quiet, *cache, *files],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def mypy_configuration(folder: Path) -> Path:
    path = folder / "mypy.ini"
    path.write_text(
        "[mypy]\n[mypy-celery.*]\nignore_missing_imports = True\nfollow_untyped_imports = False\n"
    )
    return path


@pytest.mark.timeout(300)
def test_every_celery_and_uvicorn_command_is_understood_by_the_real_one(
    environment: Environment, tmp_path: Path
) -> None:
    write_files(DOCS / "production.md", tmp_path)
    write_files(DOCS / "own-repository.md", tmp_path)
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "notes.txt").touch()
    commands = []
    for block in blocks("bash"):
        for command in commands_of(block):
            words = list(dropwhile(lambda word: re.match(r"[A-Z_]+=", word), shlex.split(command)))
            program = Path(words[0]).name
            if program in ("celery", "uvicorn"):
                commands.append((str(block), [program, *words[1:]]))
            else:
                assert program in NOT_OURS, f"{block}: {command}"
    checked = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "parse_commands.py")],
        input=json.dumps(commands),
        cwd=tmp_path,
        env={
            **os.environ,
            **environment.variables,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("understood") == len(commands) >= 10


def test_the_readmes_first_commands_are_those_that_ci_runs() -> None:
    first, second = [block for block in blocks("bash") if block.page.name == "README.md"][:2]
    ci = (ROOT / ".ci" / "run").read_text()
    for block, words in ((first, "ml demo"), (second, "python -m pytest")):
        assert words in block.text
        assert f'readme_command "{words}"' in ci


def test_every_url_that_curl_asks_for_is_there(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.variables.items():
        monkeypatch.setenv(name, value)
    from cl_ml_tools.app import create_app

    paths = create_app().openapi()["paths"]
    asked = [
        (block, command)
        for block in blocks("bash")
        for command in commands_of(block)
        if command.startswith("curl")
    ]
    assert len(asked) >= 5
    for block, command in asked:
        request = request_of(command)
        path = re.sub(r"/[0-9a-f]{4}\.\.\.", "/{job_id}", request.path.partition("?")[0])
        path = re.sub(r"/outputs/[^/]+$", "/outputs/{name}", path)
        assert request.method.lower() in paths[path], f"{block}: {command}"


def test_every_toml_json_and_yaml_block_can_be_read() -> None:
    for block in blocks("json"):
        assert block.page.name == "http.md", "test_http_page.py compares them with what is answered"
    for block in blocks("toml"):
        tomllib.loads(block.text)
    assert blocks("yaml") == [], "read them here, when there are any"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page if not name else (page.parent / name).resolve()
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors_of(target), f"{page.name}: {link}"


def test_the_readme_leads_to_every_page() -> None:
    readme = PAGES[0].read_text()
    assert [page.name for page in PAGES[1:] if f"](docs/{page.name})" not in readme] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_variable_that_a_page_names_is_a_setting(page: Path) -> None:
    names = set(re.findall(rf"(?<!_){PREFIX}([A-Z_]+)", page.read_text()))
    assert names <= {name.upper() for name in Settings.model_fields}


def test_every_test_that_the_guarantees_name_exists() -> None:
    named = re.findall(r"`(test_\w+)`", (DOCS / "guarantees.md").read_text())
    assert len(named) >= 50
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), flags=re.MULTILINE)
    }
    assert sorted(set(named) - there) == []


def test_every_row_of_the_guarantees_names_a_test() -> None:
    promises, _, _ = (DOCS / "guarantees.md").read_text().partition("## What chaos has shown")
    rows = [line for line in promises.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.endswith("| test |")]
    assert [row for row in rows if "`test_" not in row.split("|")[3]] == []


def install_plugin(page: Path, folder: Path) -> Path:
    """Write a page's plugin, with the entry points of its pyproject.toml, as an installer would."""
    write_files(page, folder)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    metadata = folder / "written_by_docs-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: written-by-docs\nVersion: 1.0\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    return folder


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "png")
    return file.getvalue()


UPLOADS: list[tuple[str, str, tuple[str, bytes], dict[str, str]]] = [
    ("README.md", "blur", ("a.png", picture()), {"radius": "1.5"}),
    ("plugins.md", "word_count", ("notes.txt", b"to be\nor not to be"), {"unit": "lines"}),
]


@pytest.mark.parametrize(("name", "task_type", "file", "fields"), UPLOADS, ids=lambda value: str(value)[:20])
def test_the_plugin_of_a_page_does_a_job_from_its_upload_to_its_output(
    name: str,
    task_type: str,
    file: tuple[str, bytes],
    fields: dict[str, str],
    start_worker: Callable[..., Process],
    start_master: Callable[..., Process],
    repository: CeleryJobRepository,
    tmp_path: Path,
) -> None:
    site = install_plugin(next(page for page in PAGES if page.name == name), tmp_path / "site")
    start_worker("-c", "1", PYTHONPATH=str(site))
    master = start_master(PYTHONPATH=str(site))
    answer = httpx2.post(f"{master.url}/api/jobs/{task_type}", files={"file": file}, data=fields, timeout=60)
    assert answer.status_code == 200, answer.text
    job = ended(repository, answer.json()["job_id"])
    assert (job.status, job.error_message) == ("completed", None)
    assert job.task_output is not None
    (output,) = job.task_output["processed_files"]
    assert Path(output).stat().st_size > 0


def test_the_schema_of_a_page_reads_the_json_text_that_the_page_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(DOCS / "plugins.md", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    from cropping import Box, CropParams  # type: ignore[import-not-found]

    (sent,) = re.findall(r"`-F 'box=(.+?)'`", (DOCS / "plugins.md").read_text())
    repository = MemoryRepository()
    app = FastAPI()
    factory = upload_route("crop", CropParams, output_name=lambda name, _: name)
    app.include_router(factory(repository, LocalFileStorage(tmp_path), lambda: None))
    with TestClient(app) as client:
        answer = client.post("/jobs/crop", data={"box": sent}, files={"file": ("a.png", b"x")})
    assert answer.status_code == 200, answer.text
    params = CropParams.model_validate(repository.only_job.params)
    assert (params.box, params.frame, params.weights) == (Box(left=1, top=2), None, {})


def test_the_test_of_the_plugins_page_passes(tmp_path: Path) -> None:
    install_plugin(DOCS / "plugins.md", tmp_path)
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "test_wordcount.py",
            "-c",
            "pyproject.toml",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout


def test_the_script_of_the_quickstart_runs(
    environment: Environment, repository: CeleryJobRepository, tmp_path: Path
) -> None:
    (script,) = [block.text for block in blocks("python") if block.file is None]
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (40, 30)).save(photo)
    script = script.replace('Path("photo.jpg")', f"Path({str(photo)!r})")
    process = environment.process([sys.executable, "-c", script], {"PYTHONPATH": str(ROOT)})
    assert process.popen.wait(60) == 0, process.output
    assert "queued 0" in process.output
    (job,) = all_jobs(repository.store)
    assert (job.created_by, job.priority, job.status) == (None, 8, "queued")


@pytest.fixture
def start_in_folder(environment: Environment, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start Python with these options in the test's folder; all end with the test."""
    started: list[Process] = []

    def start(*options: str) -> Process:
        command = ["sh", "-c", 'cd "$0" && exec "$@"', str(tmp_path), sys.executable, *options]
        path = os.pathsep.join([str(tmp_path), str(ROOT)])
        started.append(environment.process(command, {"PYTHONPATH": path}))
        return started[-1]

    yield start
    for process in started:
        process.kill_group()


def test_the_repository_of_its_page_serves_a_master_and_a_worker(
    start_in_folder: Callable[..., Process], tmp_path: Path
) -> None:
    write_files(DOCS / "own-repository.md", tmp_path)
    port = free_port()
    master = start_in_folder("-m", "uvicorn", "own_master:create_app", "--factory", "--port", str(port))
    master.wait_for("Application startup complete")
    jobs = f"http://127.0.0.1:{port}/api/jobs"
    file, size = {"file": ("a.png", picture())}, {"width": "4", "height": "4"}
    answer = httpx2.post(f"{jobs}/image_resize", files=file, data=size, timeout=60)
    assert answer.status_code == 200, answer.text

    def job() -> dict[str, object]:
        return dict(httpx2.get(f"{jobs}/{answer.json()['job_id']}", timeout=60).json())

    assert job()["status"] == "queued"
    start_in_folder("own_worker.py")
    wait_until(lambda: job()["status"] not in ("queued", "processing"), seconds=60)
    assert (job()["status"], job()["error_message"]) == ("completed", None)


def test_the_repository_of_its_page_gives_each_job_to_one_caller_and_the_most_urgent_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(DOCS / "own-repository.md", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    from sqlite_jobs import SqliteJobRepository  # type: ignore[import-not-found]

    from cl_ml_tools import Job, JobRepository

    jobs = SqliteJobRepository(str(tmp_path / "jobs.sqlite"))
    other = SqliteJobRepository(str(tmp_path / "jobs.sqlite"))
    assert isinstance(jobs, JobRepository)
    for name, priority in (("low", 1), ("first", 5), ("second", 5), ("high", 9)):
        jobs.add_job(Job(job_id=name, task_type="a", params={}), priority=priority)
    taken = [repository.fetch_next_job(["a"]) for repository in (jobs, other, jobs, other, jobs)]
    assert [job and job.job_id for job in taken] == ["high", "first", "second", "low", None]
    assert jobs.update_job("low", status="completed", progress=100, task_output={"a": 1})
    ended_job = other.get_job("low")
    assert (ended_job.status, ended_job.task_output) == ("completed", {"a": 1})
    assert jobs.delete_job("low")
    assert not jobs.delete_job("low")
    assert not jobs.update_job("low", status="queued")


def test_the_configuration_of_the_production_page_runs_jobs(
    start_worker: Callable[..., Process],
    submit: Callable[..., str],
    repository: CeleryJobRepository,
    tmp_path: Path,
) -> None:
    write_files(DOCS / "production.md", tmp_path)
    start_worker(
        "-c", "1", app="media_worker", PYTHONPATH=os.pathsep.join([str(tmp_path), str(PROBE_PLUGINS)])
    )
    assert ended(repository, submit()).status == "completed"
    limits = "from media_worker import app; app.loader.import_default_modules(); "
    limits += "task = app.tasks['cl_ml_tools.image_resize']; print(task.soft_time_limit, task.time_limit)"
    seen = subprocess.run(
        [sys.executable, "-c", limits],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert seen.stdout.split() == ["240", "300"], seen.stderr


WATCHED_APP = """
from celery.signals import task_failure, task_retry
from cl_ml_tools.app import create_celery_app

app = create_celery_app()
app.conf.result_backend = app.conf.broker_url
for signal in (task_failure, task_retry):
    signal.connect(lambda task_id="", _name=signal.name, **_: print(f"heard {_name} {task_id}"), weak=False)
"""


@pytest.mark.redis_broker
def test_celery_sees_of_a_job_what_the_production_page_says(
    start_worker: Callable[..., Process],
    start_in_folder: Callable[..., Process],
    submit: Callable[..., str],
    repository: CeleryJobRepository,
    environment: Environment,
    tmp_path: Path,
) -> None:
    write_files(DOCS / "production.md", tmp_path)
    (tmp_path / "watched.py").write_text(WATCHED_APP)
    listener = start_in_folder("failed_jobs.py")
    listener.wait_for("listening")
    app = create_celery_app(Settings.from_environment(environment.variables))
    app.conf.result_backend = app.conf.broker_url
    client: Any = repository.store.client
    seen: list[dict[str, Any]] = []
    over = threading.Event()

    def watch() -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": seen.append})
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    receiver.capture(limit=None, timeout=1, wakeup=False)

    kinds = ("task-succeeded", "task-failed")
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        wait_until(lambda: client.pubsub_channels() or client.pubsub_numpat(), why="somebody listens")
        path = os.pathsep.join([str(tmp_path), str(PROBE_PLUGINS)])
        worker = start_worker("-c", "1", app="watched", PYTHONPATH=path)
        good, bad, poor = submit(), submit(["fail", "no"]), submit(["find_bad_input", "torn"])
        again, dead = submit(["fail_for_now", "away"]), submit(["kill_self"])
        jobs = [good, bad, poor, again, dead]
        ends = [ended(repository, job_id).status for job_id in jobs]
        wait_until(lambda: sum(event["type"] in kinds for event in seen) == 9, why="all are told")
    finally:
        over.set()
        watcher.join()
    assert ends == ["completed", "error", "error", "error", "error"]
    told = [
        (event["uuid"], event.get("result", "failed").strip("'")) for event in seen if event["type"] in kinds
    ]
    results = [[result for job_id, result in told if job_id == job] for job in jobs]
    waits = ["waiting", "waiting", "ended"]
    assert results == [["completed"], ["error"], ["error"], waits, ["failed", "failed", "failed"]]
    received = next(event for event in seen if event["type"] == "task-received")
    assert (received["name"], received["args"]) == ("cl_ml_tools.probe", "('probe',)")
    assert [app.AsyncResult(job_id).state for job_id in jobs] == ["PENDING"] * 5
    assert re.findall(r"heard (.+)", worker.output) == [f"task_failure {dead}"] * 3
    logged = re.findall(r"ERROR/.*job (\S+) \(probe\) failed", worker.output)
    assert sorted(logged) == sorted([bad, poor, again, again, again])
    wait_until(lambda: sorted(re.findall(r"(\S+) failed", listener.output)) == sorted(jobs[1:]))
    assert client.zcard(repository.store.keys("status", "error")) == 4


def test_the_apps_own_page_of_the_readme_can_be_imported(tmp_path: Path) -> None:
    write_files(PAGES[0], tmp_path)
    code = "import yours; assert yours.app.main == 'yours'; assert yours.repository"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
