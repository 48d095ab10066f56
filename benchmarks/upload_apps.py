"""What is measured by `benchmarks.uploads`: one application for each way to take an upload."""

import hashlib
import os
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

from fastapi import FastAPI, File, Form, Request, UploadFile

from cl_ml_tools import BaseJobParams, Job
from cl_ml_tools.stores.local_files import LocalFileStorage
from cl_ml_tools.submission import upload_route

FOLDER = Path(os.environ["BENCHMARK_FOLDER"])


class Jobs:
    """A repository that costs nothing, so that the uploads alone are measured."""

    def add_job(self, job: Job, created_by: str | None = None, priority: int | None = None) -> str:
        return job.job_id

    def get_job(self, job_id: str) -> Job | None:
        return None


def _with_ping(app: FastAPI) -> FastAPI:
    @app.get("/ping")
    async def ping() -> int:
        return 1

    return app


def bare() -> FastAPI:
    """Reads the body and drops it."""
    app = FastAPI()

    @app.post("/jobs/probe")
    async def take(request: Request) -> dict[str, int]:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
        return {"size": size}

    return _with_ping(app)


def ours() -> FastAPI:
    """A route of one line."""
    app = FastAPI()
    route = upload_route("probe", BaseJobParams, output_name=lambda name, _: name)
    jobs: Any = Jobs()
    app.include_router(route(jobs, LocalFileStorage(FOLDER), _nobody))
    return _with_ping(app)


async def _nobody() -> None:
    """Who calls, as `create_app` has it without tokens."""


def as_in_0_2_0() -> FastAPI:
    """What the README of 0.2.0 shows: the form is spooled, then read whole, then written and hashed."""
    app = FastAPI()

    @app.post("/jobs/probe")
    async def submit(
        file: Annotated[UploadFile, File()], priority: Annotated[int, Form()] = 5
    ) -> dict[str, str]:
        job_id = str(uuid4())
        folder = FOLDER / "jobs" / job_id
        (folder / "input").mkdir(parents=True)
        (folder / "output").mkdir()
        content = await file.read()
        path = folder / "input" / str(file.filename)
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        Jobs().add_job(
            Job(job_id=job_id, task_type="probe", params={"input_paths": [str(path)], "hash": digest})
        )
        return {"job_id": job_id, "status": "queued"}

    return _with_ping(app)
