"""One job through the real acts of the store, as an upload of one picture makes it."""

import os
import uuid

from cl_ml_tools import Job
from cl_ml_tools.common.job_leases import Claim, Outcome, Owner
from cl_ml_tools.common.schemas import JobStatus
from cl_ml_tools.stores.redis_jobs import RedisJobStore

CREATOR = "somebody"
OWNER = Owner("node@benchmark:0123abcd", os.getpid())
LEASE_SECONDS = 30.0


def new_job(task_type: str = "image_resize") -> Job:
    """A job with the parameters that the route of a picture gives it."""
    job_id = str(uuid.uuid4())
    folder = f"/srv/media/jobs/{job_id}"
    params = {
        "input_paths": [f"{folder}/input/IMG_20250806_142311.jpg"],
        "output_paths": [f"{folder}/output/resized_IMG_20250806_142311.jpg"],
        "width": 1024,
        "height": 1024,
        "maintain_aspect_ratio": True,
    }
    return Job(job_id=job_id, task_type=task_type, params=params)


def output_of(job: Job) -> Outcome:
    """What its plugin answers."""
    files = {"processed_files": job.params["output_paths"]}
    return Outcome(JobStatus.COMPLETED, task_output=files)


def finish_one(store: RedisJobStore) -> str:
    """Add, claim, report and finish a job; its id."""
    job = new_job()
    dispatch = store.add(job, created_by=CREATOR)
    token = "0123456789abcdef"
    claim = store.claim(
        job.job_id, token=token, owner=OWNER, sequence=dispatch.sequence, lease_seconds=LEASE_SECONDS
    )
    assert isinstance(claim, Claim)
    store.report(job.job_id, token=token, progress=50)
    store.finish(job.job_id, token=token, outcome=output_of(job))
    return job.job_id
