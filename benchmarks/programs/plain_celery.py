"""Celery without this package, as a yardstick: a task that does nothing, configured as ours are.

``BENCHMARK_STORES=1`` makes it do what ours do too: a result that is kept, a started state, one progress.
"""

import os
import uuid

from celery import Celery, Task

from benchmarks.noop_plugin.started import tell_start
from benchmarks.programs.serving import serve

STORES = os.environ.get("BENCHMARK_STORES") == "1"
EVENTS = os.environ["BENCHMARK_EVENTS"] == "1"

app = Celery("plain", broker=os.environ["BENCHMARK_BROKER_URL"])
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_serializer="json",
    accept_content=["json"],
    broker_transport_options={"priority_steps": list(range(10)), "visibility_timeout": 43200},
    # As ours, for Flower.
    worker_send_task_events=EVENTS,
    task_send_sent_event=EVENTS,
    task_ignore_result=not STORES,
    task_track_started=STORES,
    result_backend=os.environ["BENCHMARK_RESULT_URL"] if STORES else None,
)


@app.task(name="noop", bind=True)  # type: ignore[untyped-decorator]  # Celery has no types
def noop(self: Task, job_id: str) -> str:
    """Do nothing; say so when results are kept."""
    tell_start()
    if STORES:
        self.update_state(state="PROGRESS", meta={"progress": 50})
    return job_id


def _send() -> None:
    job_id = str(uuid.uuid4())
    app.send_task("noop", (job_id,), task_id=job_id, priority=4, ignore_result=not STORES)


if __name__ == "__main__":
    serve(_send)
