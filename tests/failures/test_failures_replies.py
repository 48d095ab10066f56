"""What Redis has done, but could not say: its replies are lost on the way back."""

import os
import signal
from pathlib import Path
from uuid import uuid4

import pytest
import staging
from harness import Environment, Flower, ended, wait_until
from link import Link
from staging import (
    PATIENCE,
    QUICK,
    ProbeLog,
    StartWorker,
    Submit,
    history,
    process_of,
    record_through,
    starts,
    wait_for_status,
    wait_for_word,
    waiting_messages,
)

from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.stores._scripts import script_source
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis

pytestmark = pytest.mark.redis_broker

link = staging.link_to_server


def know(repository: CeleryJobRepository, script: str) -> None:
    """Let the server know a script, or the first reply would be that it does not."""
    repository.store.client.script_load(script_source(script))


def test_a_claim_whose_reply_is_lost_is_the_same_claim_when_it_is_asked_again(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    link: Link,
    redis_server: EmbeddedRedis,
) -> None:
    settings = {**QUICK, "CL_ML_TOOLS_LEASE_SECONDS": "60", **record_through(link, redis_server)}
    start_worker("-c", "1", **settings)
    know(repository, "claim")
    job_id = str(uuid4())
    link.hold_replies_from(job_id.encode())
    submit(job_id=job_id)
    wait_for_status(repository, job_id, "processing")
    assert starts(probe_log, job_id) == 0
    link.cut()
    link.mend()
    job = ended(repository, job_id)
    assert (job.status, job.attempt, starts(probe_log, job_id)) == ("completed", 1, 1)


def test_an_outcome_whose_reply_is_lost_is_stored_once(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    link: Link,
    redis_server: EmbeddedRedis,
    tmp_path: Path,
) -> None:
    settings = {**QUICK, "CL_ML_TOOLS_LEASE_SECONDS": "60", **record_through(link, redis_server)}
    worker = start_worker("-c", "1", **settings)
    gate = tmp_path / "gate"
    job_id = submit(["wait_for", str(gate)])
    wait_for_word(probe_log, job_id, "start")
    know(repository, "finish")
    link.hold_replies_from(b"completed")
    gate.touch()
    stored = wait_for_status(repository, job_id, "completed")
    link.cut()
    link.mend()
    assert ended(repository, submit()).status == "completed", "the pool process has let go"
    assert repository.get_job(job_id) == stored
    assert "its claim has ended" not in worker.output


def test_a_crash_whose_settlement_was_done_unheard_still_brings_the_job_back(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    link: Link,
    redis_server: EmbeddedRedis,
    tmp_path: Path,
) -> None:
    settings = {**QUICK, "CL_ML_TOOLS_LEASE_SECONDS": "60", **record_through(link, redis_server)}
    start_worker("-c", "1", **settings)
    gate = tmp_path / "gate"
    job_id = submit(["wait_for", str(gate)])
    wait_for_word(probe_log, job_id, "start")
    know(repository, "requeue")
    wait_until(lambda: is_accepted(redis_server), why="the main process knows who runs the job")
    link.hold_replies_from(b"crashed")
    os.kill(process_of(tmp_path, job_id), signal.SIGKILL)
    wait_for_status(repository, job_id, "queued")
    # The job is queued in the record, and its node never heard that it has to send the message.
    assert waiting_messages(repository) == 0
    gate.touch()
    link.cut()
    link.mend()
    job = ended(repository, job_id)
    assert (job.status, job.attempt, history(job)) == ("completed", 2, [(1, "crashed")])


def is_accepted(server: EmbeddedRedis) -> bool:
    """Whether the worker's main process has heard from a pool process that it has begun: later than the plugin has."""
    inspect = Flower(server.broker_url).control.inspect(timeout=2, limit=1)
    return any(task["worker_pid"] for tasks in (inspect.active() or {}).values() for task in tasks)


def test_a_worker_that_starts_while_redis_is_away_begins_when_it_is_back(
    environment: Environment,
    submit: Submit,
    repository: CeleryJobRepository,
    link: Link,
) -> None:
    job_id = submit()
    link.cut()
    through = {"CL_ML_TOOLS_REDIS_URL": link.redis_url, "CL_ML_TOOLS_BROKER_URL": link.broker_url}
    worker = environment.worker("-c", "1", **QUICK, **through)
    try:
        worker.wait_for("Cannot connect to", seconds=PATIENCE)
        link.mend()
        assert ended(repository, job_id).status == "completed"
    finally:
        worker.kill_group()
