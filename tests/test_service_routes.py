"""What the service says of itself, and to whom it speaks."""

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
import redis
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from harness import Environment, Process, wait_until
from plain_implementations import MemoryRepository

from cl_ml_tools.app import create_app
from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.common.schemas import Job
from cl_ml_tools.errors import SettingsError
from cl_ml_tools.service_routes import create_service_router
from cl_ml_tools.settings import Settings
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.worker import Worker

SERVED = {
    "contact_sheet",
    "image_conversion",
    "image_hash",
    "image_metadata",
    "image_resize",
    "image_thumbnail",
    "image_watermark",
}


def plugins(url: str) -> dict[str, Any]:
    return {plugin["task_type"]: plugin for plugin in httpx2.get(f"{url}/api/plugins", timeout=20).json()}


def readiness(url: str) -> tuple[int, dict[str, Any]]:
    answer = httpx2.get(f"{url}/api/health/ready", timeout=20)
    return answer.status_code, answer.json()


def upload(url: str, **headers: str) -> httpx2.Response:
    form = {"width": 3, "height": 4}
    file = {"file": ("a.png", b"no picture")}
    return httpx2.post(f"{url}/api/jobs/image_resize", data=form, files=file, headers=headers, timeout=20)


# --- who serves what


def test_a_worker_is_seen_as_long_as_it_consumes(
    start_master: Callable[..., Process],
    start_worker: Callable[..., Process],
    environment: Any,
    store: RedisJobStore,
) -> None:
    url = start_master().wait_for("Uvicorn running").url
    assert {name: plugin["served"] for name, plugin in plugins(url).items()} == dict.fromkeys(SERVED, False)
    accepted = upload(url).json()
    assert (accepted["status"], accepted["served"]) == ("queued", False)
    status, body = readiness(url)
    assert (status, body["ready"]) == (503, False)
    assert "No live worker takes jobs of type 'image_resize'." in body["faults"]
    assert body["oldest_wait_seconds"] >= 0

    worker = start_worker()
    wait_until(lambda: readiness(url)[0] == 200)
    assert readiness(url)[1]["workers"]["image_resize"] == 1
    assert upload(url).json()["served"] is True

    # It lives, and takes nothing more: a ping would not tell.
    control = [sys.executable, "-m", "celery", "-A", "cl_ml_tools", "control"]
    variables = {**os.environ, **environment.variables}
    cancel = [*control, "cancel_consumer", "cl_ml_tools.image_resize"]
    subprocess.run(cancel, env=variables, check=True, capture_output=True)
    wait_until(lambda: not plugins(url)["image_resize"]["served"])
    assert plugins(url)["image_conversion"]["served"]
    assert readiness(url)[0] == 503
    assert worker.popen.poll() is None


def test_a_worker_that_is_gone_is_forgotten(repository: CeleryJobRepository, store: RedisJobStore) -> None:
    repository.announce("gone", ["image_resize", "image_conversion"])
    repository.announce("here", ["image_resize"])
    assert repository.service().workers == {"image_resize": 2, "image_conversion": 1}
    repository.announce("gone", ["image_resize"])
    assert repository.service().workers == {"image_resize": 2}
    store.client.hset(store.keys("meta"), "time_offset_ms", 31_000)
    assert repository.service().workers == {}
    assert 0 < int(store.client.pttl(store.keys("serving"))) <= 30_000


def test_a_polling_worker_is_seen_too(repository: CeleryJobRepository) -> None:
    asyncio.run(Worker(repository).run_once())
    assert repository.service().workers.keys() >= SERVED


def test_plugins_tell_their_parameters(start_master: Callable[..., Process]) -> None:
    schema = plugins(start_master().wait_for("Uvicorn running").url)["image_resize"]["params_schema"]
    assert schema["properties"]["width"]["anyOf"][0]["type"] == "integer"
    assert "input_paths" not in schema["properties"]


def test_a_task_that_is_not_there_is_told_as_that(start_master: Callable[..., Process]) -> None:
    answer = httpx2.post(
        f"{start_master().wait_for('Uvicorn running').url}/api/jobs/nothing", files={"file": b"x"}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert "no task 'nothing'" in answer.json()["detail"]


def test_a_plain_repository_does_not_know_who_serves_it() -> None:
    app = FastAPI()
    app.include_router(create_service_router(MemoryRepository(), lambda: None, plugins=APIRouter()))
    with TestClient(app) as client:
        assert {plugin["served"] for plugin in client.get("/plugins").json()} == {None}
        assert client.get("/health/ready").json()["ready"] is True
        assert client.get("/health/live").json() == {"alive": True}


def test_a_job_that_waits_for_too_long_is_a_fault(
    repository: CeleryJobRepository, store: RedisJobStore
) -> None:
    repository.add_job(Job(job_id="a", task_type="probe", params={}))
    app = FastAPI()
    router = create_service_router(repository, lambda: None, plugins=APIRouter(), max_wait_seconds=60)
    app.include_router(router)
    store.client.hset(store.keys("meta"), "time_offset_ms", 100_000)
    with TestClient(app) as client:
        faults = client.get("/health/ready").json()["faults"]
    assert any("waits for 100 s; 60 s is the limit" in fault for fault in faults)


def test_a_redis_that_is_full_makes_the_service_not_ready(start_master: Callable[..., Process]) -> None:
    """It answers every question, and every upload gets 503."""
    with EmbeddedRedis() as server:
        master = start_master(
            CL_ML_TOOLS_REDIS_URL=server.redis_url, CL_ML_TOOLS_BROKER_URL=server.broker_url
        )
        with redis.Redis.from_url(server.redis_url) as client:
            client.config_set("maxmemory", "1")
        status, body = readiness(master.url)
    assert status == 503
    (fault,) = [fault for fault in body["faults"] if "takes no jobs" in fault]
    assert "maxmemory" in fault


def test_a_storage_that_takes_no_uploads_makes_the_service_not_ready(
    start_master: Callable[..., Process], environment: Environment
) -> None:
    master = start_master(CL_ML_TOOLS_MIN_FREE_BYTES=str(10**18))
    assert upload(master.url).status_code == 507
    status, body = readiness(master.url)
    assert status == 503
    assert any("The storage takes no uploads: 1000000000000000000 bytes" in fault for fault in body["faults"])
    shutil.rmtree(environment.variables["CL_ML_TOOLS_STORAGE_DIR"])
    assert any("The storage takes no uploads: " in fault for fault in readiness(master.url)[1]["faults"])


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_a_server_that_is_away_is_told_in_time(
    how: signal.Signals, start_master: Callable[..., Process]
) -> None:
    with EmbeddedRedis() as server:
        master = start_master(CL_ML_TOOLS_REDIS_URL=server.redis_url).wait_for("Uvicorn running")
        os.kill(server.pid, how)
        try:
            begin = time.monotonic()
            status, body = readiness(master.url)
            assert time.monotonic() - begin < 7
            assert status == 503
            assert set(body["faults"]) == {
                "The store of job records does not answer.",
                "The broker does not answer.",
            }
            assert httpx2.get(f"{master.url}/api/health/live").json() == {"alive": True}
        finally:
            if how is signal.SIGSTOP:
                os.kill(server.pid, signal.SIGCONT)


# --- who may call


def token_of(user: str) -> str:
    return f"{user}:{hashlib.sha256(f'{user}-secret'.encode()).hexdigest()}"


def bearer(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {user}-secret"}


def test_tokens_make_users_whose_jobs_are_their_own(start_master: Callable[..., Process]) -> None:
    users = ",".join(map(token_of, ("ann", "bob", "root")))
    master = start_master(CL_ML_TOOLS_API_TOKENS=users, CL_ML_TOOLS_ADMIN_USERS="root")
    url = master.wait_for("Uvicorn running").url
    job = f"{url}/api/jobs/{upload(url, **bearer('ann')).json()['job_id']}"
    assert {user: httpx2.get(job, headers=bearer(user)).status_code for user in ("ann", "bob", "root")} == {
        "ann": 200,
        "bob": 404,
        "root": 200,
    }
    for headers in ({}, bearer("carl"), {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}):
        for answer in (httpx2.get(job, headers=headers), upload(url, **headers)):
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert httpx2.get(f"{url}/api/health/ready").status_code in (200, 503), "for whoever operates it"
    assert "ann-secret" not in master.output


def test_an_admin_without_a_token_is_refused_at_start() -> None:
    with pytest.raises(SettingsError, match="names root, who has no token"):
        create_app(Settings(admin_users="root"))


def test_pages_elsewhere_may_call_only_when_they_are_named(start_master: Callable[..., Process]) -> None:
    closed = start_master().wait_for("Uvicorn running").url
    opened = start_master(CL_ML_TOOLS_CORS_ORIGINS="https://a.example").wait_for("Uvicorn running").url
    asked = {"Origin": "https://a.example"}
    assert "access-control-allow-origin" not in httpx2.get(f"{closed}/api/plugins", headers=asked).headers
    answer = httpx2.get(f"{opened}/api/plugins", headers=asked)
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    other = httpx2.get(f"{opened}/api/plugins", headers={"Origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers
    assert (answer.headers["x-content-type-options"], answer.headers["x-frame-options"]) == (
        "nosniff",
        "DENY",
    )
