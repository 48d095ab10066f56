"""Celery without this package, as a yardstick: a task that does nothing, configured as ours are.

``BENCHMARK_STORES=1`` makes it do what ours do too: a result that is kept, a started state, one progress.
"""

import os

from celery import Celery, Task

STORES = os.environ.get("BENCHMARK_STORES") == "1"

app = Celery("plain", broker=os.environ["BENCHMARK_BROKER_URL"])
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_serializer="json",
    accept_content=["json"],
    broker_transport_options={"priority_steps": list(range(10)), "visibility_timeout": 43200},
    # As ours, for Flower.
    worker_send_task_events=True,
    task_send_sent_event=True,
    task_ignore_result=not STORES,
    task_track_started=STORES,
    result_backend=os.environ["BENCHMARK_RESULT_URL"] if STORES else None,
)


@app.task(name="noop", bind=True)  # type: ignore[untyped-decorator]  # Celery has no types
def noop(self: Task, job_id: str) -> str:
    """Do nothing; say so when results are kept."""
    if STORES:
        self.update_state(state="PROGRESS", meta={"progress": 50})
    return job_id
