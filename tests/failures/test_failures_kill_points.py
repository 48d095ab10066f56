"""A process dies at each point of a job's way, and the job is done all the same.

The points are staged: the process is held where it shall die (by a gate in the plugin, by SIGSTOP, or by its
connection to Redis), it is seen to be there, and then it is killed.
"""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
import staging
from harness import all_jobs, ended, wait_until
from link import Link
from staging import (
    PATIENCE,
    QUICK,
    ProbeLog,
    StartWorker,
    Submit,
    history,
    is_alive,
    process_of,
    record,
    starts,
    stop,
    unacknowledged_messages,
    upload,
    wait_for_status,
    wait_for_word,
    waiting_messages,
)

from cl_ml_tools.app import create_storage
from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.settings import Settings
from cl_ml_tools.sweep import sweep

pytestmark = pytest.mark.redis_broker

link = staging.link_to_server

VISIBLE_AFTER_A_SECOND = {
    "TUNED_TRANSPORT_OPTIONS": '{"visibility_timeout": 1, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}'
}


@pytest.fixture
def in_background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as executor:
        yield executor


def test_a_master_killed_between_upload_and_record_leaves_files_that_the_sweep_removes(
    start_master: StartWorker,
    repository: CeleryJobRepository,
    link: Link,
    in_background: ThreadPoolExecutor,
    tmp_path: Path,
) -> None:
    master = start_master(
        CL_ML_TOOLS_REDIS_URL=link.redis_url,
        CL_ML_TOOLS_BROKER_URL=link.broker_url,
        CL_ML_TOOLS_REDIS_TIMEOUT_SECONDS="30",
    )
    link.hold_requests()
    answer = in_background.submit(upload, master.url)
    wait_until(lambda: list(tmp_path.glob("media/jobs/*/input/a.png")) and link.requests_held)
    master.kill_group()
    assert isinstance(answer.exception(), httpx2.TransportError), "nobody was told that it is accepted"
    link.cut()
    assert all_jobs(repository.store) == []
    (directory,) = tmp_path.glob("media/jobs/*")
    two_hours_ago = directory.stat().st_mtime - 7200
    os.utime(directory, (two_hours_ago, two_hours_ago))
    storage = create_storage(Settings(storage_dir=tmp_path / "media"))
    assert sum(sweep(storage, repository.store)) == 1
    assert not directory.exists()


def test_a_job_is_done_whose_master_was_killed_between_record_and_send(
    start_master: StartWorker,
    start_worker: StartWorker,
    repository: CeleryJobRepository,
    link: Link,
    in_background: ThreadPoolExecutor,
) -> None:
    master = start_master(CL_ML_TOOLS_BROKER_URL=link.broker_url, CL_ML_TOOLS_REDIS_TIMEOUT_SECONDS="30")
    link.hold_requests()
    answer = in_background.submit(upload, master.url)
    wait_until(lambda: all_jobs(repository.store) and link.requests_held)
    master.kill_group()
    assert isinstance(answer.exception(), httpx2.TransportError)
    link.cut()
    (job,) = all_jobs(repository.store)
    assert job.status == "queued"
    assert waiting_messages(repository, "image_resize") == 0
    start_worker("-c", "1", **QUICK)
    assert ended(repository, job.job_id).status == "completed"


def test_a_job_is_done_whose_message_was_lost_between_brpop_and_the_unacknowledged_ones(
    start_worker: StartWorker, submit: Submit, repository: CeleryJobRepository, probe_log: ProbeLog
) -> None:
    waits_long = {"TUNED_TRANSPORT_OPTIONS": '{"polling_interval": 60}'}
    first = start_worker("-c", "1", app="tuned_celery_app", **QUICK, **waits_long)
    client = repository.store.client
    wait_until(lambda: any(one["cmd"] == "brpop" and "b" in one["flags"] for one in client.client_list()))
    stop(first.pid)
    job_id = submit()
    # The server has answered the stopped worker's BRPOP: the message is in the worker's socket, and nowhere else.
    wait_until(lambda: waiting_messages(repository) == 0)
    assert unacknowledged_messages(repository) == 0
    first.kill_group()
    start_worker("-c", "1", **QUICK)
    job = ended(repository, job_id)
    assert (job.status, job.attempt, history(job)) == ("completed", 1, [])
    assert starts(probe_log, job_id) == 1


def test_a_job_is_done_whose_node_was_killed_between_claim_and_run(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    first = start_worker("-c", "1", **QUICK)
    gate = tmp_path / "gate"
    job_id = submit(validation_gate=str(gate))
    wait_until(Path(f"{gate}.reached").exists)
    first.kill_group()
    gate.touch()
    start_worker("-c", "1", **QUICK)
    job = ended(repository, job_id)
    assert (job.status, job.attempt, history(job)) == ("completed", 2, [(1, "lost")])
    assert starts(probe_log, job_id) == 1


def test_a_job_is_done_whose_node_was_killed_in_mid_run(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    first = start_worker("-c", "1", **QUICK)
    gate, target = tmp_path / "gate", tmp_path / "out" / "a.txt"
    job_id = submit(["write", "whole"], ["wait_for", str(gate)], output_paths=[str(target)])
    wait_for_word(probe_log, job_id, "start")
    first.kill_group()
    assert not target.exists(), "an attempt that did not end shows no output"
    start_worker("-c", "1", **QUICK)
    wait_for_word(probe_log, job_id, "start", times=2)
    gate.touch()
    job = ended(repository, job_id)
    assert (job.status, job.attempt, job.leases_lost) == ("completed", 2, 1)
    assert history(job) == [(1, "lost")]
    assert target.read_text() == "whole"


def test_a_job_is_done_whose_main_process_alone_was_killed(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    first = start_worker("-c", "1", **QUICK)
    gate = tmp_path / "gate"
    job_id = submit(["wait_for", str(gate)])
    wait_for_word(probe_log, job_id, "start")
    pool_process = process_of(tmp_path, job_id)
    os.kill(first.pid, signal.SIGKILL)
    first.popen.wait()
    wait_until(lambda: not is_alive(pool_process), why="no run goes on without its worker")
    gate.touch()
    start_worker("-c", "1", **QUICK)
    job = ended(repository, job_id)
    assert (job.status, job.attempt, history(job)) == ("completed", 2, [(1, "lost")])


def test_a_job_is_done_whose_node_was_killed_between_output_and_finish(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    link: Link,
    tmp_path: Path,
) -> None:
    first = start_worker("-c", "1", **QUICK, CL_ML_TOOLS_REDIS_URL=link.redis_url)
    gate, target = tmp_path / "gate", tmp_path / "out" / "a.txt"
    job_id = submit(["write", "whole"], ["wait_for", str(gate)], output_paths=[str(target)])
    wait_for_word(probe_log, job_id, "start")
    link.hold_requests()
    gate.touch()
    wait_until(target.exists)
    assert record(repository, job_id).status == "processing"
    first.kill_group()
    link.cut()
    start_worker("-c", "1", **QUICK)
    job = ended(repository, job_id)
    assert (job.status, job.attempt, history(job)) == ("completed", 2, [(1, "lost")])
    # What the killed attempt had not moved is left to the sweep.
    assert [path.name for path in target.parent.iterdir() if not path.name.startswith(".")] == ["a.txt"]


def test_a_job_is_not_run_again_whose_node_was_killed_between_finish_and_acknowledgement(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    first = start_worker("-c", "1", **QUICK)
    gate = tmp_path / "gate"
    job_id = submit(["wait_for", str(gate)])
    wait_for_word(probe_log, job_id, "start")
    stop(first.pid)
    gate.touch()
    wait_for_status(repository, job_id, "completed")
    assert unacknowledged_messages(repository) == 1
    first.kill_group()
    second = start_worker("-c", "1", app="tuned_celery_app", **QUICK, **VISIBLE_AFTER_A_SECOND)
    second.wait_for(f"job {job_id} is not started: done")
    wait_until(lambda: unacknowledged_messages(repository) == 0, seconds=PATIENCE)
    job = record(repository, job_id)
    assert (job.status, job.attempt, starts(probe_log, job_id)) == ("completed", 1, 1)


def test_a_job_is_done_whose_node_was_killed_while_it_extended_the_lease(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    link: Link,
    tmp_path: Path,
) -> None:
    first = start_worker("-c", "1", **QUICK, CL_ML_TOOLS_REDIS_URL=link.redis_url)
    gate = tmp_path / "gate"
    job_id = submit(["wait_for", str(gate)])
    wait_for_word(probe_log, job_id, "start")
    store = repository.store
    link.hold_replies()
    lease_end = store.client.zscore(store.keys("leases"), job_id) or 0
    wait_until(lambda: (store.client.zscore(store.keys("leases"), job_id) or 0) > lease_end)
    assert link.replies_held
    first.kill_group()
    start_worker("-c", "1", **QUICK)
    wait_for_word(probe_log, job_id, "start", times=2)
    gate.touch()
    job = ended(repository, job_id)
    assert (job.status, job.attempt, history(job)) == ("completed", 2, [(1, "lost")])


def test_a_dead_nodes_extension_that_arrives_late_changes_nothing(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    link: Link,
    tmp_path: Path,
) -> None:
    first = start_worker("-c", "1", **QUICK, CL_ML_TOOLS_REDIS_URL=link.redis_url)
    gate = tmp_path / "gate"
    job_id = submit(["wait_for", str(gate)])
    wait_for_word(probe_log, job_id, "start")
    link.hold_requests()
    wait_until(lambda: any(job_id.encode() in request for request in link.requests_held))
    first.kill_group()
    start_worker("-c", "1", **QUICK)
    wait_for_word(probe_log, job_id, "start", times=2)
    link.let_go()
    wait_until(lambda: link.is_idle)
    gate.touch()
    job = ended(repository, job_id)
    assert (job.status, job.attempt, history(job)) == ("completed", 2, [(1, "lost")])
    assert starts(probe_log, job_id) == 2


def test_a_job_is_done_whose_second_node_was_killed_while_it_recovered_it(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    link: Link,
    tmp_path: Path,
) -> None:
    first = start_worker("-c", "1", **QUICK)
    gate = tmp_path / "gate"
    job_id = submit(["wait_for", str(gate)])
    wait_for_word(probe_log, job_id, "start")
    second = start_worker("-c", "1", **QUICK, CL_ML_TOOLS_BROKER_URL=link.broker_url)
    link.hold_requests()
    first.kill_group()
    # The second node has put the job back in the record, and now tries to send its message.
    wait_for_status(repository, job_id, "queued")
    second.kill_group()
    link.cut()
    assert waiting_messages(repository) == 0
    start_worker("-c", "1", **QUICK)
    wait_for_word(probe_log, job_id, "start", times=2)
    gate.touch()
    job = ended(repository, job_id)
    assert (job.status, job.attempt, job.leases_lost) == ("completed", 2, 1)


def test_a_job_is_done_whose_pool_process_was_killed(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    worker = start_worker("-c", "1", **QUICK)
    gate = tmp_path / "gate"
    job_id = submit(["wait_for", str(gate)])
    wait_for_word(probe_log, job_id, "start")
    os.kill(process_of(tmp_path, job_id), signal.SIGKILL)
    wait_for_word(probe_log, job_id, "start", times=2)
    gate.touch()
    job = ended(repository, job_id)
    assert (job.status, job.attempt, job.crashes, job.leases_lost) == ("completed", 2, 1, 0)
    assert history(job) == [(1, "crashed")]
    assert "signal 9" in job.history[0].detail
    assert worker.popen.poll() is None
