"""This package: record, lease, one progress, outcome. The worker's app is for runs without events only."""

import os
import uuid

from benchmarks.programs.serving import serve
from cl_ml_tools import Job
from cl_ml_tools.app import create_celery_app
from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.settings import Settings
from cl_ml_tools.stores.redis_jobs import RedisJobStore

settings = Settings.from_environment()
app = create_celery_app(settings)
if os.environ["BENCHMARK_EVENTS"] == "0":
    app.conf.update(worker_send_task_events=False, task_send_sent_event=False)


def _job() -> Job:
    return Job(job_id=str(uuid.uuid4()), task_type="noop", params={})


def _produce() -> None:
    repository = CeleryJobRepository(app, RedisJobStore(settings.redis_url))
    add_jobs = getattr(repository, "add_jobs", None)
    serve(
        lambda: repository.add_job(_job()),
        None if add_jobs is None else lambda count: add_jobs([_job() for _ in range(count)]),
    )


if __name__ == "__main__":
    _produce()
