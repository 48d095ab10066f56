"""The bridge with RabbitMQ as broker; the record stays on Redis."""

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Environment, Process, wait_until
from kombu.exceptions import OperationalError
from rabbitmq_node import RabbitMQNode

from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.celery_bridge.consumer_timeout import lacks_queue_timeout
from cl_ml_tools.celery_bridge.queues import broker_fingerprint, job_queue
from cl_ml_tools.common.job_leases import Claim, Owner
from cl_ml_tools.common.schemas import Job, JobRecord
from cl_ml_tools.errors import StoreMismatchError
from cl_ml_tools.recovery import recover
from cl_ml_tools.stores.redis_jobs import RedisJobStore
from cl_ml_tools.stores.redis_recovery import RedisRecovery

Submit = Callable[..., str]
StartWorker = Callable[..., Process]
ProbeLog = Callable[[], list[str]]

ME = Owner("me", 1)


@pytest.fixture
def environment(environment: Environment, rabbitmq_url: str) -> Environment:
    environment.variables["CL_ML_TOOLS_BROKER_URL"] = rabbitmq_url
    return environment


def claim_next(repository: CeleryJobRepository, *task_types: str) -> Claim | None:
    return repository.claim_next_job(list(task_types or ["probe"]), owner=ME, lease_seconds=30)


def completed(repository: CeleryJobRepository, job_id: str, *, seconds: float = 60) -> JobRecord:
    def is_completed() -> JobRecord | None:
        job = repository.get_job(job_id)
        assert job is not None
        assert job.status in ("queued", "processing", "completed"), job
        return job if job.status == "completed" else None

    job = wait_until(is_completed, seconds=seconds, why=f"job {job_id} completes")
    assert job is not None
    return job


def recover_now(repository: CeleryJobRepository) -> dict[str, int]:
    """A step of recovery that takes every queued job's message for lost."""
    store = repository.store
    recovery = RedisRecovery(
        store, lease_seconds=30, max_leases_lost=10, lost_message_seconds=0.001, retention_days=0
    )
    recover(recovery, lambda _: True)  # the first look only notes what there is
    time.sleep(0.01)
    return dict(recover(recovery, repository.send))


def test_a_job_runs_once(
    start_worker: StartWorker, submit: Submit, repository: CeleryJobRepository, probe_log: ProbeLog
) -> None:
    start_worker("-c", "1")
    job_id = submit()
    assert completed(repository, job_id).attempt == 1
    assert probe_log() == [f"{job_id} start", f"{job_id} end"]


def test_our_queues_are_declared_with_eleven_levels_and_a_week_for_a_job(
    rabbitmq_node: RabbitMQNode, submit: Submit, repository: CeleryJobRepository
) -> None:
    submit()
    queues = rabbitmq_node.control("list_queues", "name", "arguments", "durable")
    (line,) = [line for line in queues.splitlines() if line.startswith("cl_ml_tools.probe\t")]
    assert '{"x-max-priority",10}' in line
    assert f'{{"x-consumer-timeout",{7 * 24 * 3600 * 1000}}}' in line
    assert line.endswith("true")


def test_eleven_priorities_are_strict_and_first_come_first_served_within_one(
    start_worker: StartWorker, submit: Submit, repository: CeleryJobRepository, probe_log: ProbeLog
) -> None:
    order = [5, 0, 10, 9, 3, 10, 1, 8, 2, 7, 4, 6, 0, 9]
    jobs = [(priority, submit(priority=priority)) for priority in order]
    start_worker("-c", "1")
    for _, job_id in jobs:
        completed(repository, job_id)
    started = [line.split()[0] for line in probe_log() if line.endswith(" start")]
    assert started == [job_id for _, job_id in sorted(jobs, key=lambda job: -job[0])]


def test_a_polling_worker_takes_the_most_urgent_first_and_shares_the_queues(
    submit: Submit, repository: CeleryJobRepository
) -> None:
    order = [5, 10, 0, 9, 10]
    jobs = [
        (priority, submit(priority=priority, task_type=task_type))
        for priority, task_type in zip(order, ["probe", "probe_other"] * 3, strict=False)
    ]
    claims = [claim_next(repository, "probe", "probe_other") for _ in jobs]
    taken = [claim.job.job_id for claim in claims if claim is not None]
    # Across queues the most urgent comes first; within a level each queue keeps its order.
    assert {taken[0], taken[1]} == {job_id for priority, job_id in jobs if priority == 10}
    assert taken[2:] == [job_id for _, job_id in sorted(jobs, key=lambda job: -job[0])][2:]
    assert claim_next(repository, "probe", "probe_other") is None


def test_a_message_that_rabbitmq_refuses_does_not_lose_the_job(
    rabbitmq_node: RabbitMQNode, submit: Submit, repository: CeleryJobRepository
) -> None:
    submit()
    policy = ("refuse", "^cl_ml_tools.probe$", '{"max-length":1,"overflow":"reject-publish"}')
    rabbitmq_node.control("set_policy", *policy)
    wait_until(lambda: "refuse" in rabbitmq_node.control("list_queues", "name", "policy"))
    try:
        refused = submit()
    finally:
        rabbitmq_node.control("clear_policy", "refuse")
    wait_until(lambda: "refuse" not in rabbitmq_node.control("list_queues", "name", "policy"))
    assert claim_next(repository) is not None
    assert claim_next(repository) is None, "the second message was refused"
    assert recover_now(repository) == {"resent": 1}
    claim = claim_next(repository)
    assert claim is not None
    assert claim.job.job_id == refused


def test_connections_cut_in_mid_run_cost_no_second_run(
    rabbitmq_node: RabbitMQNode,
    start_worker: StartWorker,
    submit: Submit,
    repository: CeleryJobRepository,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    worker = start_worker("-c", "2")
    gate = tmp_path / "gate"
    jobs = [submit(["wait_for", str(gate)]) for _ in range(2)]
    wait_until(lambda: len(probe_log()) == 2)
    rabbitmq_node.close_connections()
    worker.wait_for("Connected to amqp")
    wait_until(lambda: worker.output.count("Connected to amqp") == 2, why="it has connected again")
    gate.touch()
    assert [completed(repository, job_id).attempt for job_id in jobs] == [1, 1]
    after = submit()
    completed(repository, after)
    assert sorted(probe_log()) == sorted(
        f"{job_id} {word}" for job_id in (*jobs, after) for word in ("start", "end")
    )


def test_connections_cut_between_two_polls_are_made_anew(
    rabbitmq_node: RabbitMQNode, submit: Submit, repository: CeleryJobRepository
) -> None:
    submit()
    assert claim_next(repository) is not None
    submit()
    rabbitmq_node.close_connections()

    def claimed() -> Claim | None:
        try:
            return claim_next(repository)
        except OperationalError:
            return None

    assert wait_until(claimed) is not None


def test_a_queue_that_somebody_deletes_is_declared_again(
    rabbitmq_node: RabbitMQNode, submit: Submit, repository: CeleryJobRepository
) -> None:
    submit()
    rabbitmq_node.control("delete_queue", "cl_ml_tools.probe")
    with pytest.raises(OperationalError, match="no queue"):
        claim_next(repository)
    assert claim_next(repository) is None
    assert recover_now(repository) == {"resent": 1}
    assert claim_next(repository) is not None


def test_a_claim_whose_message_cannot_be_acknowledged_is_kept(
    rabbitmq_node: RabbitMQNode,
    submit: Submit,
    repository: CeleryJobRepository,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job_id = submit()
    really = repository.store.claim

    def claim_and_cut(*arguments: Any, **options: Any) -> Any:
        answer = really(*arguments, **options)
        rabbitmq_node.close_connections()
        return answer

    monkeypatch.setattr(repository.store, "claim", claim_and_cut)
    claim = claim_next(repository)
    monkeypatch.undo()
    assert claim is not None
    assert claim.job.job_id == job_id
    # The broker delivers it once more, and the claim refuses that.
    assert claim_next(repository) is None


@pytest.fixture
def own_node(tmp_path: Path, rabbitmq_node: RabbitMQNode) -> Iterator[RabbitMQNode]:
    """A server that the test may stop and start."""
    with RabbitMQNode(tmp_path / "own-rabbitmq") as node:
        yield node


@pytest.fixture
def on_own_node(environment: Environment, own_node: RabbitMQNode) -> Environment:
    environment.variables["CL_ML_TOOLS_BROKER_URL"] = own_node.url
    return environment


@pytest.fixture
def own_repository(on_own_node: Environment) -> Iterator[CeleryJobRepository]:
    from cl_ml_tools.app import create_repository
    from cl_ml_tools.settings import Settings

    repository = create_repository(Settings.from_environment(on_own_node.variables))
    yield repository
    repository.close()


def probe_job(folder: Path, *steps: list[Any]) -> Job:
    params = {"log": str(folder / "probe.log"), "steps": list(steps)}
    return Job(job_id=str(uuid.uuid4()), task_type="probe", params=params)


def test_a_hung_broker_holds_a_submission_for_seconds_and_recovery_sends_later(
    own_node: RabbitMQNode, own_repository: CeleryJobRepository, tmp_path: Path
) -> None:
    own_repository.add_job(probe_job(tmp_path))
    assert claim_next(own_repository) is not None
    os.kill(own_node.pid, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        jobs = [own_repository.add_job(probe_job(tmp_path)) for _ in range(2)]
        first_and_second = time.monotonic() - begin
        begin = time.monotonic()
        assert recover_now(own_repository)["resent"] >= 1
        recovery = time.monotonic() - begin
    finally:
        os.kill(own_node.pid, signal.SIGCONT)
    # Three tries of two seconds, since a connection stood open; then one each.
    assert first_and_second < 6 + 2 + 2
    assert recovery < 6
    taken: set[str] = set()

    def all_are_taken() -> bool:
        # The oldest is sent again; its delivery shows that the others are missing.
        recover_now(own_repository)
        if (claim := claim_next(own_repository)) is not None:
            taken.add(claim.job.job_id)
        return taken == set(jobs)

    wait_until(all_are_taken)


def test_jobs_survive_a_broker_that_is_killed_and_one_that_was_away_at_their_submission(
    own_node: RabbitMQNode,
    on_own_node: Environment,
    own_repository: CeleryJobRepository,
    start_worker: StartWorker,
    probe_log: ProbeLog,
    tmp_path: Path,
) -> None:
    quick = {"CL_ML_TOOLS_RECOVERY_INTERVAL_SECONDS": "0.5", "CL_ML_TOOLS_LOST_MESSAGE_SECONDS": "1"}
    start_worker("-c", "1", **quick)
    gate = tmp_path / "gate"
    running = own_repository.add_job(probe_job(tmp_path, ["wait_for", str(gate)]))
    wait_until(lambda: f"{running} start" in probe_log())
    waiting = own_repository.add_job(probe_job(tmp_path))
    own_node.kill()
    begin = time.monotonic()
    while_away = own_repository.add_job(probe_job(tmp_path))
    assert time.monotonic() - begin < 3
    own_node.start()
    gate.touch()
    for job_id in (running, waiting, while_away):
        assert completed(own_repository, job_id).attempt == 1
    assert len(probe_log()) == 6


def test_a_record_that_belongs_to_redis_as_broker_is_refused(
    repository: CeleryJobRepository, store: RedisJobStore
) -> None:
    assert broker_fingerprint(repository._app).startswith("amqp:")
    store.bind_broker("redis:0")
    with pytest.raises(StoreMismatchError, match="redis:0"):
        repository.check_broker()


def test_a_queue_that_is_declared_again_is_the_same(
    repository: CeleryJobRepository, rabbitmq_url: str
) -> None:
    app = repository._app
    with app.connection_for_write() as connection:
        for _ in range(2):
            job_queue(app, "probe").bind(connection.channel()).declare()


@pytest.mark.parametrize(
    ("version", "lacks"),
    [
        ("3.8.14", False),
        ("3.10.8", True),
        ("3.11.14", True),
        ("3.11.15", False),
        ("3.12.0", False),
        ("4.3.1", False),
    ],
)
def test_servers_that_do_not_know_a_queues_timeout_are_told_from_others(version: str, lacks: bool) -> None:
    assert lacks_queue_timeout({"product": "RabbitMQ", "version": version}) is lacks
    assert lacks_queue_timeout({"product": "LavinMQ", "version": version}) is False


def test_a_worker_says_what_to_set_on_a_server_that_ends_long_runs(
    rabbitmq_node: RabbitMQNode, start_worker: StartWorker
) -> None:
    worker = start_worker("-c", "1")
    version = rabbitmq_node.control("version").strip()
    says = "consumer_timeout" in worker.output
    assert says is lacks_queue_timeout({"product": "RabbitMQ", "version": version})
