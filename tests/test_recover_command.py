"""``celery ml recover``: one step by hand."""

import sys
from collections.abc import Callable

import pytest
from harness import Environment, ended

from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.common.job_leases import Claim, Owner


@pytest.fixture
def recover_by_hand(environment: Environment) -> Callable[..., tuple[int, str]]:
    """Run the command; returns its exit code and what it says."""

    def run(*options: str, app: str = "cl_ml_tools", **variables: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "celery", "-A", app, "ml", "recover", *options]
        process = environment.process(command, variables)
        return process.popen.wait(60), process.output

    return run


def pass_seconds(repository: CeleryJobRepository, seconds: int) -> None:
    """Let the record's clock go forward."""
    store = repository.store
    store.client.hincrby(store.keys("meta"), "time_offset_ms", seconds * 1000)


def empty_the_broker(repository: CeleryJobRepository) -> None:
    client = repository.store.client
    client.delete(*client.keys("cl_ml_tools.probe*"))


@pytest.mark.redis_broker
def test_recover_by_hand_sends_what_was_lost_while_no_worker_lives(
    recover_by_hand: Callable[..., tuple[int, str]],
    submit: Callable[..., str],
    repository: CeleryJobRepository,
    start_worker: Callable[..., object],
) -> None:
    job_id = submit()
    empty_the_broker(repository)
    code, said = recover_by_hand()
    assert (code, "Nothing to do." in said) == (0, True), said
    pass_seconds(repository, 61)
    code, said = recover_by_hand()
    assert (code, "1 resent" in said) == (0, True), said
    assert f"job {job_id}: resent" in said
    start_worker("-c", "1", CL_ML_TOOLS_RECOVERY_INTERVAL_SECONDS="3600")
    assert ended(repository, job_id).status == "completed"


def test_recover_by_hand_queues_the_job_of_a_node_that_is_gone(
    recover_by_hand: Callable[..., tuple[int, str]],
    submit: Callable[..., str],
    repository: CeleryJobRepository,
) -> None:
    job_id = submit()
    claim = repository.claim_next_job(["probe"], owner=Owner("gone", 1), lease_seconds=1)
    assert isinstance(claim, Claim)
    # Nobody has looked after leases: all get one lease of grace first, and end while the command goes on.
    code, said = recover_by_hand("--for", "4", CL_ML_TOOLS_LEASE_SECONDS="1")
    assert (code, "1 queued" in said) == (0, True), said
    job = repository.get_job(job_id)
    assert job is not None
    assert (job.status, job.leases_lost) == ("queued", 1)


def test_recover_by_hand_says_that_the_record_is_away(
    recover_by_hand: Callable[..., tuple[int, str]],
) -> None:
    code, said = recover_by_hand(CL_ML_TOOLS_REDIS_URL="unix:///nowhere/redis.sock")
    assert code == 1
    assert "Error: " in said
    assert "Traceback" not in said


def test_recover_by_hand_on_an_app_of_others_says_what_is_missing(
    recover_by_hand: Callable[..., tuple[int, str]],
) -> None:
    code, said = recover_by_hand(app="celery")
    assert (code, "Error: cl_ml_tools is not installed on this app" in said) == (1, True), said
