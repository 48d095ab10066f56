"""What each pool of Celery does with jobs: seen on real workers, and compared with the table of docs/pools.md.

``WRITE_POOL_TABLE=1`` writes what is seen into the table instead.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from harness import PROBE_PLUGINS, ROOT, Environment, Process, ended, wait_until

from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.common.schemas import JobRecord

PAGE = ROOT / "docs" / "pools.md"

SHORT_LEASE = {"CL_ML_TOOLS_LEASE_SECONDS": "1"}


@dataclass(frozen=True)
class Pool:
    """How a worker is started with it; ``name`` is the column of the table."""

    name: str
    options: tuple[str, ...] = ()
    app: str = "cl_ml_tools"
    variables: dict[str, str] = field(default_factory=dict)


POOLS = [
    Pool("prefork"),
    Pool(
        "prefork, spawn",
        app="tuned_celery_app",
        variables={"TUNED_CONFIGURATION": '{"worker_pool_start_method": "spawn"}'},
    ),
    Pool("threads", ("--pool", "threads")),
    Pool("solo", ("--pool", "solo")),
]


class Stage:
    """A worker on one pool, and the job that it does."""

    def __init__(
        self,
        pool: Pool,
        start_worker: Callable[..., Process],
        submit: Callable[..., str],
        repository: CeleryJobRepository,
        probe_log: Callable[[], list[str]],
        folder: Path,
    ) -> None:
        self.repository = repository
        self.submit = submit
        self.gate = folder / "gate"
        self._pool = pool
        self._start_worker = start_worker
        self._probe_log = probe_log

    def start_worker(self, **variables: str) -> Process:
        pool = self._pool
        return self._start_worker("-c", "2", *pool.options, app=pool.app, **pool.variables, **variables)

    def job(self, job_id: str) -> JobRecord:
        job = self.repository.get_job(job_id)
        assert job is not None
        return job

    def ended(self, job_id: str) -> JobRecord:
        return ended(self.repository, job_id)

    def starts(self, job_id: str) -> int:
        return self._probe_log().count(f"{job_id} start")

    def has_said(self, job_id: str, word: str) -> bool:
        return f"{job_id} {word}" in self._probe_log()

    def wait_for_word(self, job_id: str, word: str) -> None:
        wait_until(lambda: self.has_said(job_id, word), seconds=60, why=f"{job_id} says {word}")

    @property
    def is_solo(self) -> bool:
        return self._pool.name == "solo"

    def process_of(self, job_id: str) -> int:
        """Which process has written the job's last word."""
        lines = (self.gate.parent / "probe.log").read_text().splitlines()
        return int([line for line in lines if line.startswith(job_id)][-1].split()[-1])

    def goes_on(self, job_id: str) -> bool:
        """Whether the plugin's code lives after its job's end: then it passes the gate now, and the test ends it."""
        self.gate.touch()
        # Another job's end tells that the worker is ready for one, in whatever order.
        assert self.ended(self.submit()).status == "completed", "the worker goes on"
        return self.has_said(job_id, "passed")

    def is_in_table(self, row: str, words: str) -> None:
        """Compare what was seen with the table; or write it there."""
        lines = PAGE.read_text().splitlines()
        columns = _cells(next(line for line in lines if line.startswith("| | ")))
        number, line = next((n, line) for n, line in enumerate(lines) if line.startswith(f"| {row} |"))
        cells = _cells(line)
        column = columns.index(self._pool.name)
        if os.environ.get("WRITE_POOL_TABLE"):
            cells[column] = words
            lines[number] = f"| {' | '.join(cells)} |"
            PAGE.write_text("\n".join(lines) + "\n")
            return
        assert cells[column] == words


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|\n").split("|")]


@pytest.fixture(params=POOLS, ids=lambda pool: pool.name.replace(", ", "-"))
def stage(
    request: pytest.FixtureRequest,
    start_worker: Callable[..., Process],
    submit: Callable[..., str],
    repository: CeleryJobRepository,
    probe_log: Callable[[], list[str]],
    tmp_path: Path,
) -> Stage:
    return Stage(request.param, start_worker, submit, repository, probe_log, tmp_path)


def test_a_job_runs_and_shows_its_progress(stage: Stage) -> None:
    stage.start_worker()
    job_id = stage.submit(["progress", 40], ["wait_for", str(stage.gate)])
    wait_until(lambda: stage.job(job_id).progress == 40, seconds=60)
    assert stage.job(job_id).status == "processing"
    stage.gate.touch()
    job = stage.ended(job_id)
    assert (job.status, job.progress, job.attempt) == ("completed", 100, 1)
    stage.is_in_table("a job runs, and shows its progress", "yes")


@pytest.mark.parametrize(
    ("step", "kind"), [("await_and_clean_up", "awaits"), ("wait_and_clean_up", "blocks")]
)
def test_the_soft_time_limit(stage: Stage, step: str, kind: str) -> None:
    stage.start_worker(CL_ML_TOOLS_SOFT_TIME_LIMIT_SECONDS="2", CL_ML_TOOLS_TIME_LIMIT_SECONDS="6")
    job_id = stage.submit([step, str(stage.gate)])
    job = stage.ended(job_id)
    assert (job.status, job.attempt) == ("error", 1)
    if job.error_message == "stopped at its soft time limit of 2 s":
        assert stage.has_said(job_id, "cleaned-up")
        words = "stopped; may clean up"
    else:
        assert job.error_message == "stopped at its time limit of 6 s"
        words = "not noticed"
    stage.goes_on(job_id)
    stage.is_in_table(f"soft time limit, code that {kind}", words)


@pytest.mark.long  # races the limit with the plugin's clean-up; a busy machine decides it
@pytest.mark.parametrize(
    ("step", "kind"), [("await_and_clean_up", "awaits"), ("wait_and_clean_up", "blocks")]
)
def test_the_hard_time_limit(stage: Stage, step: str, kind: str) -> None:
    worker = stage.start_worker(CL_ML_TOOLS_TIME_LIMIT_SECONDS="2")
    job_id = stage.submit([step, str(stage.gate)], ["log", "passed"])
    job = stage.ended(job_id)
    assert (job.status, job.error_message) == ("error", "stopped at its time limit of 2 s")
    cleaned_up = stage.has_said(job_id, "cleaned-up")
    if stage.goes_on(job_id):
        words = "the job ends; its code goes on, unheard"
    elif (process := stage.process_of(job_id)) == worker.pid:
        assert cleaned_up
        words = "stopped; may clean up"
    else:
        wait_until(lambda: not psutil.pid_exists(process), seconds=60)
        words = "its process is ended"
    assert stage.job(job_id).status == "error", "what goes on changes nothing"
    stage.is_in_table(f"hard time limit, code that {kind}", words)


@pytest.mark.parametrize("step", ["await_for", "report_until"])
def test_a_cancel_of_code_that_awaits_or_reports(stage: Stage, step: str) -> None:
    stage.start_worker(**SHORT_LEASE)
    job_id = stage.submit([step, str(stage.gate)], ["log", "passed"])
    stage.wait_for_word(job_id, "start")
    stage.repository.cancel_job(job_id)
    assert stage.ended(job_id).status == "cancelled"
    assert not stage.goes_on(job_id)
    stage.is_in_table("cancel, code that awaits or reports", "stopped; may clean up")


def test_a_cancel_of_code_that_blocks(stage: Stage) -> None:
    worker = stage.start_worker(
        **SHORT_LEASE, CL_ML_TOOLS_CANCEL_GRACE_SECONDS="1", CL_ML_TOOLS_TIME_LIMIT_SECONDS="6"
    )
    job_id = stage.submit(["wait_for", str(stage.gate)], ["log", "passed"])
    stage.wait_for_word(job_id, "start")
    stage.repository.cancel_job(job_id)
    assert stage.ended(job_id).status == "cancelled"
    if stage.goes_on(job_id):
        words = "cancelled at its time limit; its code goes on, unheard"
    else:
        assert f"job {job_id} is told to stop (stopping) and goes on: ending process" in worker.output
        words = "its process is ended after `cancel_grace_seconds`"
    stage.is_in_table("cancel, code that blocks", words)


def test_code_that_holds_the_gil_for_longer_than_the_lease(stage: Stage) -> None:
    # Nobody takes the job while its lease has ended: what is looked at is the lease.
    stage.start_worker(CL_ML_TOOLS_LEASE_SECONDS="2", CL_ML_TOOLS_RECOVERY_INTERVAL_SECONDS="3600")
    job_id = stage.submit(["hold_the_gil", 6])
    stage.wait_for_word(job_id, "start")
    store = stage.repository.store
    seconds_left = []
    while stage.job(job_id).status == "processing":
        if (end := store.client.zscore(store.keys("leases"), job_id)) is not None:
            seconds_left.append(end / 1000 - time.time())
        time.sleep(0.05)
    assert stage.ended(job_id).status == "completed"
    words = (
        "the lease is kept" if min(seconds_left) > 0 else "the lease ends; another worker may start the job"
    )
    stage.is_in_table("code that holds the GIL for longer than the lease", words)


def test_code_that_kills_its_process(stage: Stage) -> None:
    worker = stage.start_worker(CL_ML_TOOLS_LEASE_SECONDS="2", CL_ML_TOOLS_RECOVERY_INTERVAL_SECONDS="0.5")
    job_id = stage.submit(["kill_self_once", str(stage.gate)])
    stage.wait_for_word(job_id, "start")
    wait_until(lambda: stage.job(job_id).status == "completed" or worker.popen.poll() is not None, seconds=60)
    if worker.popen.poll() is None:
        assert stage.job(job_id).crashes == 1
        words = "started again at once, counted as a crash"
    else:
        stage.start_worker(CL_ML_TOOLS_LEASE_SECONDS="2", CL_ML_TOOLS_RECOVERY_INTERVAL_SECONDS="0.5")
        assert stage.ended(job_id).leases_lost == 1
        words = "ends the worker; another one starts the job when the lease has ended"
    job = stage.job(job_id)
    assert (job.status, job.attempt) == ("completed", 2)
    stage.is_in_table("code that kills its process", words)


def test_a_warm_shutdown_while_a_job_runs(stage: Stage) -> None:
    worker = stage.start_worker(**SHORT_LEASE)
    job_id = stage.submit(["wait_for", str(stage.gate)])
    stage.wait_for_word(job_id, "start")
    worker.send(signal.SIGTERM)
    worker.wait_for("Warm shutdown")
    stage.gate.touch()
    job = stage.ended(job_id)
    assert (job.status, job.attempt) == ("completed", 1)
    assert worker.popen.wait(60) == 0
    stage.is_in_table("warm shutdown (`SIGTERM`) while a job runs", "the job is finished first")


@pytest.mark.redis_broker
def test_the_connection_to_the_broker_is_cut_while_a_job_runs(stage: Stage) -> None:
    worker = stage.start_worker()
    client = stage.repository.store.client
    job_id = stage.submit(["wait_for", str(stage.gate)])
    stage.wait_for_word(job_id, "start")
    for kind in ("normal", "pubsub"):
        client.client_kill_filter(_type=kind, skipme=True)
    if not stage.is_solo:
        # The broker hands out the message of the running job again, and that is refused. A solo worker learns
        # of the cut only when its job is done.
        worker.wait_for(f"job {job_id} is not started: held", seconds=60)
    stage.gate.touch()
    job = stage.ended(job_id)
    assert (job.status, job.attempt, stage.starts(job_id)) == ("completed", 1, 1)
    assert stage.ended(stage.submit()).status == "completed", "the worker goes on"
    wait_until(lambda: client.hlen("unacked") == 0, seconds=60, why="all is acknowledged")
    stage.is_in_table("connection to the broker cut while a job runs", "one run")


GREEN_POOL = """
from celery.concurrency.solo import TaskPool as SoloPool

class TaskPool(SoloPool):
    pass
"""


@pytest.mark.parametrize("name", ["gevent", "eventlet"])
def test_green_pools_are_refused_with_a_clear_error(
    environment: Environment, tmp_path: Path, name: str
) -> None:
    worker = environment.worker(*green_pool(tmp_path, name), **green_variables(tmp_path, name))
    assert worker.popen.wait(60) != 0
    assert f"cl_ml_tools does not run on the {name} pool" in worker.output
    assert "Use --pool prefork, threads or solo." in worker.output


def test_a_green_worker_of_an_existing_app_that_takes_none_of_our_queues_starts(
    start_worker: Callable[..., Process], environment: Environment, tmp_path: Path
) -> None:
    variables = green_variables(tmp_path, "gevent")
    start_worker(*green_pool(tmp_path, "gevent"), app="existing_celery_app", **variables)
    ours = environment.worker(
        *green_pool(tmp_path, "gevent"),
        "-Q",
        "celery,cl_ml_tools.probe",
        app="existing_celery_app",
        **variables,
    )
    assert ours.popen.wait(60) != 0
    assert "cl_ml_tools does not run on the gevent pool" in ours.output


def test_a_worker_does_not_start_on_a_queue_whose_plugin_it_has_not(environment: Environment) -> None:
    """Celery would throw the messages away."""
    worker = environment.worker("-Q", "cl_ml_tools.probe,cl_ml_tools.prbe")
    assert worker.popen.wait(60) != 0
    assert "no plugin for cl_ml_tools.prbe: it would throw" in worker.output
    assert "cl_ml_tools.probe_other" in worker.output


@pytest.mark.parametrize("accepted", [["pickle"], []])
def test_a_worker_that_takes_our_queues_and_no_json_is_refused_and_one_for_other_tasks_starts(
    start_worker: Callable[..., Process], environment: Environment, tmp_path: Path, accepted: list[str]
) -> None:
    module = f"from existing_celery_app import app\n\napp.conf.accept_content = {accepted}\n"
    (tmp_path / "no_json.py").write_text(module)
    path = f"{PROBE_PLUGINS}{os.pathsep}{tmp_path}"
    start_worker("-c", "1", app="no_json", PYTHONPATH=path)
    ours = environment.worker("-c", "1", "-Q", "celery,cl_ml_tools.probe", app="no_json", PYTHONPATH=path)
    assert ours.popen.wait(60) != 0
    assert 'cl_ml_tools sends jobs as JSON: add "json" to accept_content' in ours.output


@pytest.mark.parametrize("accepted", [["pickle", "json"], ["application/json"]])
def test_a_worker_may_accept_json_under_either_name(
    start_worker: Callable[..., Process], tmp_path: Path, accepted: list[str]
) -> None:
    module = f"from existing_celery_app import app\n\napp.conf.accept_content = {accepted}\n"
    (tmp_path / "some_json.py").write_text(module)
    path = f"{PROBE_PLUGINS}{os.pathsep}{tmp_path}"
    start_worker("-c", "1", "-Q", "celery,cl_ml_tools.probe", app="some_json", PYTHONPATH=path)


def green_pool(folder: Path, name: str) -> tuple[str, ...]:
    """Options for a pool that Celery takes for the green one, which is not installed."""
    package = folder / "green_pools"
    package.mkdir(exist_ok=True)
    (package / f"{name}.py").write_text(GREEN_POOL)
    return ("--pool", "custom")


def green_variables(folder: Path, name: str) -> dict[str, str]:
    return {
        "CELERY_CUSTOM_WORKER_POOL": f"green_pools.{name}:TaskPool",
        "PYTHONPATH": f"{PROBE_PLUGINS}{os.pathsep}{folder}",
    }
