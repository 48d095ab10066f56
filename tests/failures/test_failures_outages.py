"""Redis goes away under running jobs: refused, hung, restarted, emptied. Each test has a server of its own."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import staging
from harness import PROBE_PLUGINS, Environment, ended, wait_until
from link import Link
from redis import Redis
from staging import (
    PATIENCE,
    QUICK,
    ProbeLog,
    StartWorker,
    Submit,
    history,
    process_of,
    record,
    record_through,
    starts,
    stop,
    stopped,
    wait_for_word,
)

from cl_ml_tools.app import create_repository
from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.common.schemas import Job
from cl_ml_tools.settings import Settings
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis

pytestmark = pytest.mark.redis_broker

redis_server = staging.own_server
link = staging.link_to_server


def begin(submit: Submit, probe_log: ProbeLog, gate: Path, count: int, step: str = "wait_for") -> list[str]:
    """So many jobs that run until there is a gate."""
    job_ids = [submit([step, str(gate)]) for _ in range(count)]
    for job_id in job_ids:
        wait_for_word(probe_log, job_id, "start")
    return job_ids


def assert_each_ran_once(repository: CeleryJobRepository, probe_log: ProbeLog, job_ids: list[str]) -> None:
    jobs = [ended(repository, job_id) for job_id in job_ids]
    assert {(job.status, job.attempt) for job in jobs} == {("completed", 1)}
    assert [history(job) for job in jobs] == [[]] * len(jobs)
    assert [starts(probe_log, job_id) for job_id in job_ids] == [1] * len(job_ids)


def server_ms(client: Redis) -> int:
    seconds, microseconds = client.time()
    return seconds * 1000 + microseconds // 1000


def test_a_worker_outlives_a_redis_that_is_full(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    redis_server: EmbeddedRedis,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    """For kombu an error reply is one of the channel, for which Celery ends a worker unless it is told otherwise."""
    worker = start_worker("-c", "1", **QUICK)
    gate = tmp_path / "gate"
    (running,) = begin(submit, probe_log, gate, 1)
    waiting = submit()
    with Redis.from_url(redis_server.redis_url) as client:
        client.config_set("maxmemory", "1")
        gate.touch()
        # It fetches the next one.
        worker.wait_for("Connection to broker lost", seconds=PATIENCE)
        client.config_set("maxmemory", "0")
    assert [ended(repository, job_id).status for job_id in (running, waiting)] == ["completed"] * 2
    assert worker.popen.poll() is None


def test_a_worker_outlives_a_redis_that_becomes_a_replica(
    start_worker: StartWorker, submit: Submit, repository: CeleryJobRepository, redis_server: EmbeddedRedis
) -> None:
    worker = start_worker("-c", "1", **QUICK)
    assert ended(repository, submit()).status == "completed"
    with Redis.from_url(redis_server.redis_url) as client:
        client.replicaof("127.0.0.1", "1")
        worker.wait_for("Connection to broker lost", seconds=PATIENCE)
        client.replicaof("NO", "ONE")
    assert ended(repository, submit()).status == "completed"
    assert worker.popen.poll() is None


@pytest.mark.parametrize(
    ("away_seconds", "lease_seconds"),
    [(6, 2), pytest.param(45, 10, marks=[pytest.mark.long, pytest.mark.timeout(240)])],
)
@pytest.mark.parametrize("how", ["refused", "hung"])
def test_redis_away_for_longer_than_a_lease_costs_no_running_job_its_run(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    link: Link,
    redis_server: EmbeddedRedis,
    tmp_path: Path,
    how: str,
    away_seconds: float,
    lease_seconds: int,
) -> None:
    settings = {
        **QUICK,
        "CL_ML_TOOLS_LEASE_SECONDS": str(lease_seconds),
        "CL_ML_TOOLS_REDIS_URL": link.redis_url,
        "CL_ML_TOOLS_BROKER_URL": link.broker_url,
    }
    for pool in ("prefork", "threads"):
        start_worker("-c", "4", "--pool", pool, **settings)
    gate = tmp_path / "gate"
    job_ids = begin(submit, probe_log, gate, 8)
    if how == "refused":
        link.cut()
    else:
        stop(redis_server.pid)
    # Not a wait for something: the length of the outage is what is tested.
    time.sleep(away_seconds)
    if how == "refused":
        link.mend()
    else:
        os.kill(redis_server.pid, signal.SIGCONT)
    back_at = time.monotonic()
    # Leases are kept again by those who live.
    store = repository.store
    wait_until(
        lambda: all(
            (store.client.zscore(store.keys("leases"), job_id) or 0) > server_ms(store.client)
            for job_id in job_ids
        ),
        seconds=PATIENCE,
    )
    gate.touch()
    assert_each_ran_once(repository, probe_log, job_ids)
    print(
        f"{how} for {away_seconds} s: 8 jobs, one start each; all stored {time.monotonic() - back_at:.1f} s later"
    )


@pytest.mark.parametrize("how", ["refused", "hung"])
def test_jobs_that_finish_while_redis_is_away_store_their_outcomes_when_it_is_back(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    link: Link,
    redis_server: EmbeddedRedis,
    tmp_path: Path,
    how: str,
) -> None:
    settings = {**QUICK, "CL_ML_TOOLS_REDIS_URL": link.redis_url, "CL_ML_TOOLS_BROKER_URL": link.broker_url}
    for pool in ("prefork", "threads"):
        start_worker("-c", "2", "--pool", pool, **settings)
    gate = tmp_path / "gate"
    job_ids = begin(submit, probe_log, gate, 4)
    if how == "refused":
        link.cut()
    else:
        stop(redis_server.pid)
    gate.touch()
    for job_id in job_ids:
        wait_for_word(probe_log, job_id, "end")
    time.sleep(3)  # longer than a lease
    if how == "refused":
        link.mend()
    else:
        os.kill(redis_server.pid, signal.SIGCONT)
    assert_each_ran_once(repository, probe_log, job_ids)
    assert ended(repository, submit()).status == "completed", "the workers go on"


def test_a_pool_process_killed_while_it_waits_for_redis_loses_no_outcome(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    link: Link,
    redis_server: EmbeddedRedis,
    tmp_path: Path,
) -> None:
    settings = {**QUICK, "CL_ML_TOOLS_LEASE_SECONDS": "60", **record_through(link, redis_server)}
    start_worker("-c", "1", TMPDIR=str(tmp_path), **settings)
    gate, target = tmp_path / "gate", tmp_path / "out" / "a.txt"
    job_id = submit(["write", "whole"], ["wait_for", str(gate)], output_paths=[str(target)])
    wait_for_word(probe_log, job_id, "start")
    link.cut()
    gate.touch()
    wait_until(lambda: list(tmp_path.glob("cl_ml_tools-outcomes-*/*.json")), seconds=PATIENCE)
    os.kill(process_of(tmp_path, job_id), signal.SIGKILL)
    link.mend()
    assert_each_ran_once(repository, probe_log, [job_id])
    assert target.read_text() == "whole"
    wait_until(lambda: not list(tmp_path.glob("cl_ml_tools-outcomes-*")), why="nothing is left of the spool")


def test_a_run_that_lost_its_job_while_redis_was_away_changes_nothing(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    link: Link,
    tmp_path: Path,
) -> None:
    # One node is cut off, the other is not: the job goes over to it, and completes.
    cut_off = {**QUICK, "CL_ML_TOOLS_REDIS_URL": link.redis_url, "CL_ML_TOOLS_BROKER_URL": link.broker_url}
    first = start_worker("-c", "1", **cut_off)
    gate, target = tmp_path / "gate", tmp_path / "out" / "a.txt"
    job_id = submit(["write_pid"], ["wait_for", str(gate)], output_paths=[str(target)])
    wait_for_word(probe_log, job_id, "start")
    link.cut()
    start_worker("-c", "1", **QUICK)
    wait_for_word(probe_log, job_id, "start", times=2)
    gate.touch()
    job = ended(repository, job_id)
    assert (job.status, job.attempt, history(job)) == ("completed", 2, [(1, "lost")])
    output = target.read_text()
    wait_for_word(probe_log, job_id, "end", times=2)
    link.mend()
    first.wait_for(f"job {job_id}: its claim has ended, this run stops", seconds=PATIENCE)
    assert record(repository, job_id) == job
    assert target.read_text() == output == str((job.task_output or {})["pid"])


def test_redis_that_is_stopped_and_continued_starts_every_job_once(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    redis_server: EmbeddedRedis,
    tmp_path: Path,
) -> None:
    for pool in ("prefork", "threads"):
        start_worker("-c", "2", "--pool", pool, **QUICK)
    gate = tmp_path / "gate"
    running = begin(submit, probe_log, gate, 4)
    waiting = [submit() for _ in range(6)]
    with stopped(redis_server.pid):
        time.sleep(3)  # longer than a lease and than any answer is waited for
    gate.touch()
    assert_each_ran_once(repository, probe_log, running + waiting)


@pytest.mark.long  # kombu's restore of the message has been seen to take longer than a minute on a busy machine
def test_a_broker_connection_that_is_killed_in_mid_run_makes_a_duplicate_that_is_refused(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    workers = [start_worker("-c", "1", "--pool", pool, **QUICK) for pool in ("prefork", "threads")]
    gate = tmp_path / "gate"
    job_ids = begin(submit, probe_log, gate, 2)
    idle = start_worker("-c", "2", **QUICK)
    client = repository.store.client
    for connection in client.client_list():
        if connection["cmd"] in ("brpop", "hdel", "hset", "unsubscribe", "subscribe", "psubscribe"):
            client.client_kill_filter(_id=connection["id"])
    for worker in workers:
        worker.wait_for("Connection to broker lost", seconds=PATIENCE)

    def said(words: str) -> int:
        return sum(worker.output.count(words) for worker in (*workers, idle))

    wait_until(lambda: all(said(f"[{job_id}] received") >= 2 for job_id in job_ids), seconds=PATIENCE)
    gate.touch()
    assert_each_ran_once(repository, probe_log, job_ids)
    # `held` or, where the duplicate waited for the only pool process, `done`.
    wait_until(lambda: all(said(f"job {job_id} is not started: ") for job_id in job_ids), seconds=PATIENCE)


@pytest.fixture
def separate_broker(environment: Environment, redis_server: EmbeddedRedis) -> Iterator[Redis]:
    """The broker in a database of its own. To be asked for before the repository is."""
    environment.variables["CL_ML_TOOLS_BROKER_URL"] = redis_server.broker_url.replace("host=0", "host=1")
    with Redis.from_url(redis_server.redis_url.replace("db=0", "db=1")) as client:
        yield client


def test_a_broker_that_was_emptied_is_filled_again(
    separate_broker: Redis,
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    worker = start_worker("-c", "1", **QUICK)
    running = begin(submit, probe_log, gate, 1)
    waiting = [submit(priority=priority) for priority in (0, 5, 5, 5, 10)]
    assert separate_broker.dbsize() > 0
    # All of it: waiting messages, the unacknowledged one, and what kombu knows of queues.
    separate_broker.flushdb()
    gate.touch()
    assert_each_ran_once(repository, probe_log, running + waiting)
    assert worker.popen.poll() is None


def test_a_broker_that_was_emptied_takes_new_jobs_from_who_was_connected(
    separate_broker: Redis,
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
) -> None:
    settings = {**QUICK, "CL_ML_TOOLS_LOST_MESSAGE_SECONDS": "300"}
    start_worker("-c", "1", **settings)
    ended(repository, submit())
    separate_broker.flushdb()
    # Without recovery's help: master and worker have declared the queue before, and do not do so again.
    assert ended(repository, submit()).status == "completed"


def test_a_broker_that_is_away_at_submission_delays_the_job(
    start_worker: StartWorker,
    repository: CeleryJobRepository,
    environment: Environment,
    redis_server: EmbeddedRedis,
    link: Link,
    tmp_path: Path,
) -> None:
    environment.variables["CL_ML_TOOLS_BROKER_URL"] = link.broker_url
    with closing(create_repository(Settings.from_environment(environment.variables))) as cut_off:
        link.cut()
        job = Job(job_id="a", task_type="probe", params={"log": str(tmp_path / "probe.log")})
        assert cut_off.add_job(job) == "a", "accepted"
    assert record(repository, "a").status == "queued"
    environment.variables["CL_ML_TOOLS_BROKER_URL"] = redis_server.broker_url
    start_worker("-c", "1", **QUICK)
    assert ended(repository, "a").status == "completed"


class KeptRedis:
    """A server with an append-only file, that can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.server = EmbeddedRedis(directory)
        self.server.start()

    @property
    def redis_url(self) -> str:
        return self.server.redis_url

    def kill(self) -> None:
        os.kill(self.server.pid, signal.SIGKILL)
        wait_until(lambda: not self.server.is_alive)

    def start_again(self) -> None:
        self.server.stop()
        self.server = EmbeddedRedis(self._directory)
        self.server.start()


class TestARestart:
    @pytest.fixture
    def redis_server(self) -> Iterator[KeptRedis]:
        # Short, so that the socket has the same path after the restart.
        directory = Path(tempfile.mkdtemp(prefix="cl_ml_tools-", dir="/tmp"))
        kept = KeptRedis(directory)
        yield kept
        kept.server.stop()
        shutil.rmtree(directory)

    def test_redis_that_is_killed_and_started_again_with_its_file_loses_no_job_and_runs_none_twice(
        self,
        start_worker: StartWorker,
        submit: Submit,
        repository: CeleryJobRepository,
        probe_log: ProbeLog,
        redis_server: KeptRedis,
        tmp_path: Path,
    ) -> None:
        for pool in ("prefork", "threads"):
            start_worker("-c", "2", "--pool", pool, **QUICK)
        gate = tmp_path / "gate"
        running = begin(submit, probe_log, gate, 4)
        waiting = [submit() for _ in range(4)]
        redis_server.kill()
        time.sleep(3)  # longer than a lease
        redis_server.start_again()
        gate.touch()
        assert_each_ran_once(repository, probe_log, running + waiting)
        assert ended(repository, submit()).status == "completed"

    def test_a_node_that_dies_together_with_redis_loses_no_job(
        self,
        start_worker: StartWorker,
        submit: Submit,
        repository: CeleryJobRepository,
        probe_log: ProbeLog,
        redis_server: KeptRedis,
        tmp_path: Path,
    ) -> None:
        first = start_worker("-c", "2", **QUICK)
        gate = tmp_path / "gate"
        running = begin(submit, probe_log, gate, 2)
        waiting = [submit() for _ in range(2)]
        redis_server.kill()
        first.kill_group()
        redis_server.start_again()
        gate.touch()
        start_worker("-c", "2", **QUICK)
        jobs = [ended(repository, job_id) for job_id in running + waiting]
        assert [(job.status, job.attempt) for job in jobs] == [("completed", 2)] * 2 + [("completed", 1)] * 2


def test_a_node_whose_clock_is_an_hour_off_neither_loses_nor_takes_a_job(
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    right = start_worker("-c", "1", **QUICK)
    job_ids = begin(submit, probe_log, gate, 1)
    for hours in (1, -1):
        start_worker("-c", "1", **QUICK, **clock_moved(hours))
    job_ids += begin(submit, probe_log, gate, 2)
    ends = [
        repository.store.client.zscore(repository.store.keys("leases"), job_id) or 0 for job_id in job_ids
    ]
    wait_until(lambda: server_ms(repository.store.client) > max(ends) + 2000, seconds=PATIENCE)
    gate.touch()
    assert_each_ran_once(repository, probe_log, job_ids)
    for job_id in job_ids:
        job = record(repository, job_id)
        times = [job.created_at, job.started_at or 0, job.finished_at or 0]
        assert times == sorted(times)
        assert abs(times[-1] - time.time() * 1000) < 600_000
    assert right.popen.poll() is None


def test_a_node_whose_clock_is_ahead_sweeps_no_upload_that_is_under_way(
    start_worker: StartWorker, repository: CeleryJobRepository, tmp_path: Path
) -> None:
    jobs = tmp_path / "media" / "jobs"
    (jobs / "young" / "input").mkdir(parents=True)
    (jobs / "old" / "input").mkdir(parents=True)
    three_hours_ago = time.time() - 3 * 3600
    os.utime(jobs / "old", (three_hours_ago, three_hours_ago))
    start_worker("-c", "1", **QUICK, **clock_moved(2))
    wait_until(lambda: not (jobs / "old").exists(), seconds=PATIENCE)
    assert (jobs / "young").exists()


def test_a_message_goes_out_although_the_connection_was_forgotten_on_its_way(
    environment: Environment, link: Link, redis_server: EmbeddedRedis
) -> None:
    variables = {**environment.variables, "CL_ML_TOOLS_BROKER_URL": link.broker_url}
    repository = create_repository(Settings.from_environment(variables))
    with closing(repository), Redis.from_url(redis_server.redis_url) as client:
        for number in range(2):
            repository.add_job(Job(job_id=f"job-{number}", task_type="probe", params={}))
            link.forget()
        assert client.llen("cl_ml_tools.probe\x06\x164") == 2


def clock_moved(hours: int) -> dict[str, str]:
    """The variables of a process whose clock is off; see ``at_start/sitecustomize.py``."""
    folder = Path(__file__).parent / "at_start"
    return {"PYTHONPATH": f"{folder}{os.pathsep}{PROBE_PLUGINS}", "CLOCK_OFF_SECONDS": str(hours * 3600)}
