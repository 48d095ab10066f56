"""Two masters and two workers behind one Redis: a client need not know through which of them it speaks."""

import io
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from harness import Process, all_jobs, wait_until
from PIL import Image

from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.stores.redis_jobs import RedisJobStore

SIZE = {"width": "4", "height": "3"}


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 24), "teal").save(file, "png")
    return file.getvalue()


class Api:
    """The API through two masters that take turns: whatever is asked next goes to the other one."""

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls
        self._turn = 0

    def __call__(self, method: str, path: str, **more: Any) -> httpx2.Response:
        self._turn += 1
        url = f"{self._urls[self._turn % len(self._urls)]}/api{path}"
        return httpx2.request(method, url, timeout=60, **more)

    def upload(self, content: bytes, **headers: str) -> str:
        answer = self(
            "POST", "/jobs/image_resize", data=SIZE, files={"file": ("a.png", content)}, headers=headers
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["job_id"])

    def ended(self, job_id: str) -> str:
        def status() -> str:
            job = self("GET", f"/jobs/{job_id}?wait=10").json()
            return str(job["status"]) if job["status"] in ("completed", "error", "cancelled") else ""

        return wait_until(status, seconds=60)


@pytest.fixture
def api(start_master: Callable[..., Process], start_worker: Callable[..., Process]) -> Api:
    for _ in range(2):
        # A job that only waits hears of a cancel when its lease is extended.
        start_worker("-c", "1", CL_ML_TOOLS_LEASE_SECONDS="2")
    return Api([start_master().url, start_master().url])


def test_whatever_one_master_was_told_the_other_knows(
    api: Api, submit: Callable[..., str], tmp_path: Path, store: RedisJobStore
) -> None:
    jobs = [api.upload(picture()) for _ in range(6)]
    assert [api.ended(job_id) for job_id in jobs] == ["completed"] * 6
    first = jobs[0]
    for _ in range(2):  # each of them once
        listed = api("GET", "/jobs?status=completed").json()["jobs"]
        assert {job["job_id"] for job in listed} == set(jobs)
        events = api("GET", f"/jobs/{first}/events").text
        assert '"completed"' in events
        (output,) = api("GET", f"/jobs/{first}/outputs").json()
        content = api("GET", f"/jobs/{first}/outputs/{output['name']}").content
        with Image.open(io.BytesIO(content)) as image:
            assert image.size == (4, 3)
        archive = zipfile.ZipFile(io.BytesIO(api("GET", f"/jobs/{first}/outputs.zip").content))
        assert archive.namelist() == [output["name"]]
        resize = {one["task_type"]: one for one in api("GET", "/plugins").json()}["image_resize"]
        assert (resize["workers"], resize["served"]) == (2, True)
    chained = api("POST", "/jobs/image_conversion", data={"from_job": first, "format": "webp"}).json()[
        "job_id"
    ]
    assert api.ended(chained) == "completed"
    # One that runs is stopped, tried again and removed, each through the other.
    gate = tmp_path / "gate"
    running = submit(["await_for", str(gate)])
    wait_until(lambda: api("GET", f"/jobs/{running}").json()["status"] == "processing")
    assert api("POST", f"/jobs/{running}/cancel").status_code in (200, 202)
    assert api.ended(running) == "cancelled"
    gate.touch()
    assert api("POST", f"/jobs/{running}/retry").status_code == 200
    assert api.ended(running) == "completed"
    for job_id in (*jobs, chained, running):
        assert api("DELETE", f"/jobs/{job_id}").status_code == 204
        assert [api("GET", f"/jobs/{job_id}").status_code for _ in range(2)] == [404, 404]
    assert all_jobs(store) == []
    assert list((tmp_path / "media" / "jobs").glob("*")) == []


def test_each_key_gives_one_job_that_runs_once_however_many_race_for_it(
    api: Api, repository: CeleryJobRepository, tmp_path: Path
) -> None:
    """Four keys, eight at once for each, over both masters, while both workers take what comes."""
    gate = threading.Barrier(32)
    content = picture()

    def submit(number: int) -> str:
        gate.wait()
        return api.upload(content, **{"Idempotency-Key": f"key-{number % 4}"})

    with ThreadPoolExecutor(32) as pool:
        accepted = list(pool.map(submit, range(32)))
    jobs = [accepted[number] for number in range(4)]
    assert accepted == jobs * 8
    assert [api.ended(job_id) for job_id in jobs] == ["completed"] * 4
    assert sorted(job.job_id for job in all_jobs(repository.store)) == sorted(jobs)
    assert [job.attempt for job in all_jobs(repository.store)] == [1] * 4
    assert sorted(path.name for path in (tmp_path / "media" / "jobs").glob("*")) == sorted(jobs)
    assert [api.upload(content, **{"Idempotency-Key": f"key-{number}"}) for number in range(4)] == jobs, (
        "also when it is done"
    )
