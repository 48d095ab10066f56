"""Every endpoint against every kind of caller, as one table; an endpoint without a row fails."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.routing import iter_route_contexts
from harness import Environment, all_jobs

from cl_ml_tools.app import create_app
from cl_ml_tools.common.job_leases import Outcome, Owner
from cl_ml_tools.common.schemas import Job, JobStatus
from cl_ml_tools.settings import Settings
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis
from cl_ml_tools.stores.local_files import LocalFileStorage
from cl_ml_tools.stores.redis_jobs import RedisJobStore

USERS = ["creator", "other", "admin", "none"]

ALL = dict.fromkeys(USERS, 200)
"""Open to everybody."""

KNOWN = {**ALL, "none": 401}
"""For whoever has a token."""


def own(status: int = 200) -> dict[str, int]:
    """For the job's creator and admins; to others it is as if there were no such job."""
    return {"creator": status, "other": 404, "admin": status, "none": 401}


@dataclass(frozen=True)
class Row:
    """What each caller is answered.

    Attributes:
        expected: the status, by caller.
        job: in which state the job of the path is.
        form: what is sent.
        file: whether a file is.
        sees: by caller, whose jobs the answer tells of.
    """

    expected: dict[str, int]
    job: str = "completed"
    form: dict[str, str] = field(default_factory=dict)
    file: bool = False
    sees: dict[str, set[str]] | None = None


FORMS: dict[str, dict[str, str]] = {
    "image_resize": {"width": "3"},
    "image_conversion": {"format": "png"},
    "image_thumbnail": {},
    "image_metadata": {},
    "image_hash": {},
    "image_watermark": {"watermark_text": "x"},
    "contact_sheet": {},
}
"""What each plugin's form needs beside its files."""

SEEN = {"creator": {"ann"}, "other": {"bob"}, "admin": {"ann", "bob"}}
JOB = "/api/jobs/{job_id}"

TABLE: dict[tuple[str, str, str], Row] = {
    ("GET", "/api/jobs", ""): Row(KNOWN, sees=SEEN),
    ("GET", "/api/jobs/events", ""): Row(KNOWN, sees=SEEN),
    ("GET", JOB, ""): Row(own()),
    ("GET", JOB, "?wait=0.01"): Row(own(), job="queued"),
    ("GET", f"{JOB}/events", ""): Row(own()),
    ("GET", f"{JOB}/outputs", ""): Row(own()),
    ("GET", f"{JOB}/outputs.zip", ""): Row(own()),
    ("GET", f"{JOB}/outputs/{{name:path}}", ""): Row(own()),
    ("POST", f"{JOB}/cancel", ""): Row(own(), job="queued"),
    ("POST", f"{JOB}/cancel", "running"): Row(own(202), job="processing"),
    ("POST", f"{JOB}/retry", ""): Row(own(), job="error"),
    ("DELETE", JOB, ""): Row(own(204)),
    ("GET", "/api/plugins", ""): Row(KNOWN),
    # No such task, whoever asks.
    ("POST", "/api/jobs/{task_type}", ""): Row(dict.fromkeys(USERS, 404)),
    ("GET", "/api/health/live", ""): Row(ALL),
    # There is no worker, which is for everybody to know.
    ("GET", "/api/health/ready", ""): Row(dict.fromkeys(USERS, 503)),
    **{("GET", path, ""): Row(ALL) for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect")},
    **{("POST", f"/api/jobs/{name}", "file"): Row(KNOWN, form=form, file=True) for name, form in FORMS.items()},
    **{
        ("POST", f"/api/jobs/{name}", "from_job"): Row(own(), form={**form, "from_job": "{job_id}"})
        for name, form in FORMS.items()
    },
}  # fmt: skip


def settings_of(server: EmbeddedRedis, folder: Path) -> dict[str, str]:
    tokens = {name: hashlib.sha256(f"{name}-secret".encode()).hexdigest() for name in ("ann", "bob", "root")}
    return {
        "CL_ML_TOOLS_REDIS_URL": server.redis_url,
        "CL_ML_TOOLS_STORAGE_DIR": str(folder / "media"),
        "CL_ML_TOOLS_KEY_PREFIX": "users",
        "CL_ML_TOOLS_API_TOKENS": ",".join(f"{name}:{digest}" for name, digest in tokens.items()),
        "CL_ML_TOOLS_ADMIN_USERS": "root",
    }


@dataclass(frozen=True)
class Served:
    url: str
    store: RedisJobStore
    storage: LocalFileStorage

    def prepare(self, status: str) -> str:
        """Let there be only Ann's job in this state, and one of Bob's."""
        for job in all_jobs(self.store):
            self.storage.cleanup_job(job.job_id)
        # All at once: a job that runs would only be hidden.
        self.store.client.delete(*self.store.client.scan_iter(f"{self.store.keys.root}:*"))
        self.store.add(Job(job_id="bobs", task_type="probe", params={}), created_by="bob")
        self.store.add(Job(job_id="anns", task_type="probe", params={}), created_by="ann")
        self.storage.create_job_directory("anns")
        (self.storage.get_output_path("anns") / "cat.png").write_bytes(b"meow")
        if status != "queued":
            self.store.claim("anns", token="t", owner=Owner("n", 1), sequence=0, lease_seconds=600)
        if status not in ("queued", "processing"):
            self.store.finish("anns", token="t", outcome=Outcome(JobStatus(status), task_output={}))
        return "anns"


@pytest.fixture(scope="module")
def served(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("users")
    master = Environment(settings_of(redis_server, folder), folder).master()
    try:
        master.wait_for("Application startup complete")
        with RedisJobStore(redis_server.redis_url, prefix="users") as store:
            yield Served(master.url, store, LocalFileStorage(folder / "media"))
    finally:
        master.kill_group()


def asked(served: Served, method: str, path: str, row: Row, user: str, job_id: str) -> tuple[int, str]:
    """The status and the text; of a stream without an end what comes until all is told that is to be seen."""
    name = {"creator": "ann", "other": "bob", "admin": "root"}.get(user)
    headers = {"Authorization": f"Bearer {name}-secret"} if name else {}
    if path.endswith("/jobs/events"):
        headers["Last-Event-ID"] = "0-0"
    url = served.url + path.replace("{job_id}", job_id).replace("{name:path}", "cat.png")
    form = {key: value.replace("{job_id}", job_id) for key, value in row.form.items()}
    files = {"file": ("a.png", b"x")} if row.file else None
    with httpx2.stream(method, url, headers=headers, data=form, files=files, timeout=30) as answer:
        if path.endswith("/jobs/events") and answer.status_code == 200:
            text = ""
            for line in answer.iter_lines():
                text += line
                # These happen last, so what comes before them was kept back.
                if all(f'"{name}s","status"' in text for name in (row.sees or {})[user]):
                    break
            return 200, text
        return answer.status_code, answer.read().decode("latin-1")


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(("endpoint", "row"), TABLE.items(), ids=[" ".join(key).strip() for key in TABLE])
def test_everybody_is_answered_as_the_table_says(
    endpoint: tuple[str, str, str], row: Row, user: str, served: Served
) -> None:
    method, path, variant = endpoint
    path += variant if variant.startswith("?") else ""
    job_id = served.prepare(row.job)
    before = served.store.get(job_id)
    status, text = asked(served, method, path, row, user, job_id)
    assert status == row.expected[user], text
    if row.sees is not None and status == 200:
        assert {name for name in ("ann", "bob") if f'"{name}s"' in text} == row.sees[user]
    if status in (401, 404):
        assert served.store.get(job_id) == before, "it has done nothing"
        assert (served.storage.get_output_path(job_id) / "cat.png").read_bytes() == b"meow"
        assert len(all_jobs(served.store)) == len(list(served.storage.base_dir.glob("jobs/*"))) + 1
        assert "meow" not in text
    if status == 404:
        unknown = asked(served, method, path, row, user, "none")
        assert (status, text.replace("'anns'", "'none'")) == unknown, "as if there were no such job"


def test_the_table_has_every_endpoint(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    app = create_app(Settings.from_environment(settings_of(redis_server, tmp_path)))
    endpoints = {
        (method, route.path)
        for route in iter_route_contexts(app.routes)
        for method in (route.methods or {"ANY"}) - {"HEAD"}
    }
    assert endpoints == {(method, path) for method, path, _ in TABLE}


def test_every_row_says_it_of_every_caller() -> None:
    callers: list[Any] = [set(row.expected) for row in TABLE.values()]
    assert callers == [set(USERS)] * len(TABLE)
