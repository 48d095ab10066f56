"""Our worker and our master on a repository that locks rows with FOR UPDATE SKIP LOCKED."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Optional

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from harness import PROBE_PLUGINS, Environment, wait_until
from PIL import Image
from sqlalchemy import create_engine, func, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy_repository import Base, JobModel, SQLAlchemyJobRepository
from test_contract_0_2_0 import block

from cl_ml_tools import Job, JobRepository
from cl_ml_tools.job_routes import create_job_router
from cl_ml_tools.master import create_master_router
from cl_ml_tools.stores.local_files import LocalFileStorage
from cl_ml_tools.worker import Worker

NO_POSTGRESQL = (
    "no PostgreSQL server in /usr/lib/postgresql. To run these: apt-get install postgresql "
    "(a private cluster is started)"
)


def postgresql_programs() -> Path | None:
    """Where Debian keeps the newest server's programs."""
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(versions, key=lambda path: int(path.parts[-3]), default=None)
    return newest.parent if newest else None


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """A PostgreSQL server of our own, on a unix socket in a temporary directory."""
    programs = postgresql_programs()
    if programs is None:
        if os.environ.get("CI"):
            raise RuntimeError(f"in CI this must be tested: {NO_POSTGRESQL}")
        pytest.skip(NO_POSTGRESQL)
    # Not below pytest's own directory: another user could not reach it.
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    # The server refuses to run as root.
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    data, log = folder / "data", folder / "log"
    quick = ["--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"]
    initdb = [str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "tester", *quick]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=folder, **identity)
    command = [str(programs / "postgres"), "-D", str(data), "-k", str(folder), "-h", "", "-c", "fsync=off"]
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, **identity)
    url = f"postgresql+psycopg://tester@/postgres?host={folder}"
    try:
        wait_until(lambda: answers(url, server), why="PostgreSQL answers")
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(20)
        shutil.rmtree(folder)


def answers(url: str, server: subprocess.Popen[bytes]) -> bool:
    assert server.poll() is None, "PostgreSQL has ended"
    with suppress(OperationalError), create_engine(url).connect() as connection:
        return bool(connection.scalar(text("SELECT 1")))
    return False


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.db'}"
    url: str = request.getfixturevalue("postgresql_url")
    engine = create_engine(url)
    Base.metadata.drop_all(engine)
    engine.dispose()
    return url


@pytest.fixture
def repository(url: str) -> Iterator[SQLAlchemyJobRepository]:
    repository = SQLAlchemyJobRepository(url)
    yield repository
    repository.engine.dispose()


def probe_job(job_id: str, log: Path, *steps: list[Any], **params: Any) -> Job:
    return Job(job_id=job_id, task_type="probe", params={"log": str(log), "steps": list(steps), **params})


@pytest.fixture
def worker(repository: SQLAlchemyJobRepository, monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.syspath_prepend(str(PROBE_PLUGINS))
    return Worker(repository)


def test_it_is_a_repository(repository: SQLAlchemyJobRepository) -> None:
    assert isinstance(repository, JobRepository)


def test_the_worker_runs_its_jobs_most_urgent_first(
    worker: Worker, repository: SQLAlchemyJobRepository, tmp_path: Path
) -> None:
    log, target = tmp_path / "log", tmp_path / "out" / "a.txt"
    repository.add_job(probe_job("calm", log), priority=1)
    steps: list[list[Any]] = [["progress", 40], ["write", "hello"]]
    repository.add_job(probe_job("urgent", log, *steps, output_paths=[str(target)]), priority=9)
    repository.add_job(probe_job("broken", log, ["fail", "no such colour"]), priority=5)
    repository.add_job(Job(job_id="foreign", task_type="unknown", params={}), priority=10)

    assert [asyncio.run(worker.run_once()) for _ in range(4)] == [True, True, True, False]
    started = [line.split()[0] for line in log.read_text().splitlines() if " start " in line]
    assert started == ["urgent", "broken", "calm"]
    job = repository.get_job("urgent")
    assert job is not None
    assert (job.status, job.progress, job.error_message) == ("completed", 100, None)
    assert job.task_output == {"pid": os.getpid(), "processed_files": [str(target)]}
    broken, foreign = repository.get_job("broken"), repository.get_job("foreign")
    assert broken is not None
    assert (broken.status, broken.task_output) == ("error", None)
    assert broken.error_message == "RuntimeError: no such colour"
    assert foreign is not None
    assert foreign.status == "queued"


def test_three_workers_racing_run_each_job_once(
    repository: SQLAlchemyJobRepository, url: str, tmp_path: Path
) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    for number in range(90):
        # The three most urgent ones keep their workers busy until each has one.
        steps: list[list[Any]] = [["wait_for", str(gate)]] if number < 3 else []
        repository.add_job(probe_job(f"job-{number}", log, *steps), priority=9 if number < 3 else 5)
    path = os.pathsep.join([str(PROBE_PLUGINS), str(Path(__file__).parent)])
    environment = Environment({"PYTHONPATH": path}, tmp_path)
    loop = [sys.executable, "-m", "sqlalchemy_repository", url]
    workers = [environment.process(loop, {}) for _ in range(3)]
    try:
        wait_until(lambda: log.exists() and log.read_text().count("start") == 3, why="each has a job")
        gate.touch()
        assert [process.popen.wait(30) for process in workers] == [0, 0, 0], workers[0].output
    finally:
        for process in workers:
            process.kill_group()
    lines = [line.split() for line in log.read_text().splitlines()]
    assert sorted(name for name, word, _ in lines if word == "start") == sorted(
        f"job-{number}" for number in range(90)
    )
    assert {int(pid) for _, _, pid in lines} == {process.pid for process in workers}
    with repository.sessions() as session:
        counts = session.execute(select(JobModel.status, func.count()).group_by(JobModel.status)).all()
    assert [tuple(row) for row in counts] == [("completed", 90)]


def test_the_master_and_the_job_routes_take_it(
    worker: Worker, repository: SQLAlchemyJobRepository, tmp_path: Path
) -> None:
    class User:
        id = 42

    storage = LocalFileStorage(tmp_path / "media")
    app = FastAPI()
    app.include_router(create_master_router(repository, storage, User), prefix="/api")
    app.include_router(create_job_router(repository, User), prefix="/api")
    picture = BytesIO()
    Image.new("L", (40, 20)).save(picture, "PNG")
    with TestClient(app) as client:
        form = {"width": "20", "height": "20", "maintain_aspect_ratio": "true", "priority": "8"}
        files = {"file": ("cat.png", picture.getvalue())}
        job_id = client.post("/api/jobs/image_resize", data=form, files=files).json()["job_id"]
        with repository.sessions() as session:
            row = session.get_one(JobModel, job_id)
            assert (row.created_by, row.priority, row.status) == ("42", 8, "queued")
        assert asyncio.run(worker.run_once())
        job = client.get(f"/api/jobs/{job_id}").json()
    assert (job["status"], job["progress"]) == ("completed", 100)
    (output,) = job["task_output"]["processed_files"]
    with Image.open(output) as image:
        assert image.size == (20, 10)
    assert repository.delete_job(job_id)
    assert not repository.delete_job(job_id)


def test_the_fetch_of_the_0_2_0_readme_claims_as_it_stands(repository: SQLAlchemyJobRepository) -> None:
    given: dict[str, Any] = {"Job": Job, "JobModel": JobModel, "List": list, "Optional": Optional}
    exec(block("python", "skip_locked=True"), given)
    fetch: Callable[[Any, list[str], Session], Job | None] = given["fetch_next_job"]
    repository.add_job(Job(job_id="a", task_type="probe", params={"n": 1}), priority=2)
    repository.add_job(Job(job_id="b", task_type="probe", params={"n": 2}), priority=7)
    with repository.sessions() as session:
        jobs = [fetch(repository, ["probe"], session) for _ in range(3)]
    assert [job and (job.job_id, job.status) for job in jobs] == [
        ("b", "processing"),
        ("a", "processing"),
        None,
    ]
