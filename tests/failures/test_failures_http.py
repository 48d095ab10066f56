"""A master whose Redis or broker does not answer. Each test has a server of its own."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
import staging
from harness import all_jobs, ended, wait_until
from link import Link
from staging import PATIENCE, QUICK, StartWorker, stopped, upload

from cl_ml_tools.app import create_storage
from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.settings import Settings
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis
from cl_ml_tools.sweep import sweep

pytestmark = pytest.mark.redis_broker

redis_server = staging.own_server
link = staging.link_to_server

SLACK = 3.0
"""Seconds that two busy cores may add to a bound."""


@pytest.fixture
def many() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as executor:
        yield executor


def timed_upload(url: str) -> tuple[httpx2.Response, float]:
    start = time.monotonic()
    return upload(url), time.monotonic() - start


def upload_until_accepted(url: str) -> str:
    """Upload again and again: a master leaves a server that hung in peace for a moment. The accepted job's id."""
    answer = wait_until(lambda: (answer := upload(url)).is_success and answer, seconds=PATIENCE)
    assert answer
    return str(answer.json()["job_id"])


def swept(folder: Path, repository: CeleryJobRepository) -> int:
    """How many directories the sweep removes, two hours later."""
    for directory in folder.glob("media/jobs/*"):
        two_hours_ago = directory.stat().st_mtime - 7200
        os.utime(directory, (two_hours_ago, two_hours_ago))
    storage = create_storage(Settings(storage_dir=folder / "media"))
    return sum(sweep(storage, repository.store))


@pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "just started"])
def test_uploads_while_redis_hangs_are_answered_503_and_never_become_jobs(
    start_master: StartWorker,
    start_worker: StartWorker,
    repository: CeleryJobRepository,
    redis_server: EmbeddedRedis,
    many: ThreadPoolExecutor,
    tmp_path: Path,
    is_warm: bool,
) -> None:
    master = start_master()
    accepted = [upload(master.url).json()["job_id"]] if is_warm else []
    with stopped(redis_server.pid):
        answers = [asked.result() for asked in [many.submit(timed_upload, master.url) for _ in range(8)]]
    assert {answer.status_code for answer, _ in answers} == {503}
    assert all(int(answer.headers["Retry-After"]) > 0 for answer, _ in answers)
    slowest = max(seconds for _, seconds in answers)
    print(f"503 within {slowest:.1f} s")
    assert slowest < 5 + SLACK
    # A job is accepted after all that the hung server did later.
    accepted.append(upload_until_accepted(master.url))
    time.sleep(1)
    assert {job.job_id for job in all_jobs(repository.store)} == set(accepted)
    start_worker("-c", "1", **QUICK)
    assert {ended(repository, job_id).status for job_id in accepted} == {"completed"}
    directories = {path.name for path in tmp_path.glob("media/jobs/*")}
    assert swept(tmp_path, repository) == len(directories - set(accepted))
    assert {path.name for path in tmp_path.glob("media/jobs/*")} == set(accepted)


@pytest.mark.parametrize(
    "pause",
    [
        1.9,
        3.9,
        *(pytest.param(pause, marks=pytest.mark.long) for pause in (0.5, 2.1, 3.0, 3.99, 4.0, 4.01, 4.1)),
    ],
)
def test_whenever_redis_goes_on_an_upload_is_a_job_if_and_only_if_it_was_accepted(
    start_master: StartWorker,
    repository: CeleryJobRepository,
    redis_server: EmbeddedRedis,
    many: ThreadPoolExecutor,
    pause: float,
) -> None:
    master = start_master()
    accepted = {upload(master.url).json()["job_id"]}
    with stopped(redis_server.pid):
        asked = [many.submit(upload, master.url) for _ in range(8)]
        time.sleep(pause)  # the moment is what is tested
    answers = [answer.result() for answer in asked]
    assert {answer.status_code for answer in answers} <= {200, 503}
    accepted |= {answer.json()["job_id"] for answer in answers if answer.status_code == 200}
    time.sleep(1)
    assert {job.job_id for job in all_jobs(repository.store)} == accepted
    print(f"after {pause} s: {len(accepted) - 1} of 8 accepted")


def test_many_clients_at_once_are_answered_in_time_while_redis_hangs(
    start_master: StartWorker,
    redis_server: EmbeddedRedis,
    many: ThreadPoolExecutor,
) -> None:
    master = start_master()
    job_id = upload(master.url).json()["job_id"]

    def ask(number: int) -> tuple[int, float]:
        start = time.monotonic()
        if number % 2:
            return upload(master.url).status_code, time.monotonic() - start
        answer = httpx2.get(f"{master.url}/api/jobs/{job_id}", timeout=PATIENCE)
        return answer.status_code, time.monotonic() - start

    with stopped(redis_server.pid):
        answers = list(many.map(ask, range(60)))
    slowest = max(seconds for _, seconds in answers)
    print(f"60 clients at once: 503 within {slowest:.1f} s")
    assert {status for status, _ in answers} == {503}
    assert slowest < 5 + SLACK
    wait_until(lambda: httpx2.get(f"{master.url}/api/jobs/{job_id}", timeout=PATIENCE).is_success)


def test_uploads_while_redis_refuses_are_answered_503_at_once(
    start_master: StartWorker, repository: CeleryJobRepository, link: Link, tmp_path: Path
) -> None:
    master = start_master(CL_ML_TOOLS_REDIS_URL=link.redis_url, CL_ML_TOOLS_BROKER_URL=link.broker_url)
    assert upload(master.url).status_code == 200
    link.cut()
    answer, seconds = timed_upload(master.url)
    assert answer.status_code == 503
    assert seconds < 1 + SLACK
    link.mend()
    upload_until_accepted(master.url)
    assert len(all_jobs(repository.store)) == 2


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_an_upload_is_accepted_while_the_broker_alone_is_away(
    start_master: StartWorker,
    start_worker: StartWorker,
    repository: CeleryJobRepository,
    link: Link,
    how: str,
) -> None:
    master = start_master(CL_ML_TOOLS_BROKER_URL=link.broker_url)
    assert upload(master.url).status_code == 200
    if how == "refuses":
        link.cut()
    else:
        link.hold_requests()
    answer, seconds = timed_upload(master.url)
    print(f"accepted within {seconds:.1f} s while the broker {how}")
    assert answer.status_code == 200
    assert seconds < 7 + SLACK
    start_worker("-c", "1", **QUICK)
    assert ended(repository, answer.json()["job_id"]).status == "completed"


def test_a_master_that_starts_while_redis_hangs_serves_when_it_goes_on(
    start_master: StartWorker, repository: CeleryJobRepository, redis_server: EmbeddedRedis
) -> None:
    with stopped(redis_server.pid):
        master = start_master()
        assert upload(master.url).status_code == 503
    upload_until_accepted(master.url)
    assert len(all_jobs(repository.store)) == 1
