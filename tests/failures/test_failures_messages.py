"""Messages that none of our own code has sent: doubled, malformed, or made by hand in Flower."""

from pathlib import Path
from typing import Any

import pytest
from harness import Flower, ended, wait_until
from staging import (
    PATIENCE,
    QUICK,
    ProbeLog,
    StartWorker,
    Submit,
    history,
    starts,
    unacknowledged_messages,
    wait_for_word,
)

from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis

pytestmark = pytest.mark.redis_broker


@pytest.fixture
def stranger(redis_server: EmbeddedRedis) -> Flower:
    return Flower(redis_server.broker_url)


def send(stranger: Flower, *args: Any, **kwargs: Any) -> str:
    """Send a message to the probe task, on the level of its jobs; returns the Celery task's id."""
    sent = stranger.send_task(
        "cl_ml_tools.probe", args, kwargs, queue="cl_ml_tools.probe", ignore_result=True
    )
    return str(sent.id)


def test_a_malformed_message_disturbs_no_running_job(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    stranger: Flower,
    tmp_path: Path,
) -> None:
    worker = start_worker("-c", "2", **QUICK)
    gate = tmp_path / "gate"
    job_id = submit(["wait_for", str(gate)])
    wait_for_word(probe_log, job_id, "start")
    sent = [
        send(stranger),
        send(stranger, "nobody"),
        send(stranger, "nobody", 1),
        send(stranger, None, None),
        send(stranger, job_id, "x"),
        send(stranger, {"a": 1}, [2]),
        send(stranger, job_id, 1, 2, 3),
        send(stranger, what=1),
    ]
    for task_id in sent:
        worker.wait_for(f"cl_ml_tools.probe[{task_id}] received")
    wait_until(lambda: unacknowledged_messages(repository) == 1, seconds=PATIENCE)
    gate.touch()
    job = ended(repository, job_id)
    assert (job.status, job.attempt, history(job)) == ("completed", 1, [])
    assert ended(repository, submit()).status == "completed"
    assert "the keeper failed" not in worker.output
    assert "the attendant failed" not in worker.output


@pytest.mark.parametrize("end", ["finishes", "is terminated"])
def test_a_job_that_a_person_starts_by_name_keeps_its_lease_and_can_be_terminated(
    start_worker: StartWorker,
    repository: CeleryJobRepository,
    submit: Submit,
    probe_log: ProbeLog,
    stranger: Flower,
    tmp_path: Path,
    end: str,
) -> None:
    gate = tmp_path / "gate"
    job_id = submit(["wait_for", str(gate)])
    client = repository.store.client
    client.delete(*client.keys("cl_ml_tools.probe*"))
    worker = start_worker("-c", "1", **QUICK)
    task_id = send(stranger, job_id=job_id, sequence=1)
    wait_for_word(probe_log, job_id, "start")
    lease_end = client.zscore(repository.store.keys("leases"), job_id) or 0
    wait_until(
        lambda: (client.zscore(repository.store.keys("leases"), job_id) or 0) > lease_end + 2000,
        seconds=PATIENCE,
    )
    if end == "finishes":
        gate.touch()
        assert ended(repository, job_id).status == "completed"
    else:
        stranger.control.terminate(task_id)
        wait_until(lambda: unacknowledged_messages(repository) == 0, seconds=PATIENCE)
        # Not by the job's own id: it counts as a process that was ended.
        gate.touch()
        assert ended(repository, job_id).status in ("completed", "cancelled")
    assert "the keeper failed" not in worker.output
    assert "the attendant failed" not in worker.output
    assert worker.popen.poll() is None


def test_doubled_messages_start_a_job_once(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    stranger: Flower,
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    job_id = submit(["wait_for", str(gate)])
    for _ in range(5):
        send(stranger, job_id, 1)
    workers = [start_worker("-c", "2", **QUICK) for _ in range(2)]
    wait_for_word(probe_log, job_id, "start")
    wait_until(lambda: unacknowledged_messages(repository) == 1, seconds=PATIENCE)
    gate.touch()
    job = ended(repository, job_id)
    assert (job.status, job.attempt, starts(probe_log, job_id)) == ("completed", 1, 1)
    assert sum(worker.output.count(f"job {job_id} is not started: held") for worker in workers) == 5
