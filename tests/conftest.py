"""Fixtures: a real server for the whole run, emptied before each test; real workers and masters."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import broker_fixtures
import pytest
from harness import Environment, Process
from hypothesis import HealthCheck, Phase, settings

from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.common.schemas import Job
from cl_ml_tools.settings import Settings
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis
from cl_ml_tools.stores.redis_jobs import RedisJobStore

_RARELY_QUICK = list(HealthCheck)
settings.register_profile(
    "short", max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=_RARELY_QUICK
)
settings.register_profile(
    "long", max_examples=14_000, stateful_step_count=60, deadline=None, suppress_health_check=_RARELY_QUICK
)
# For the mutation check: what a failure looks like does not matter.
settings.register_profile("mutation", settings.get_profile("short"), phases=[Phase.generate])
settings.load_profile("short")

rabbitmq_node = broker_fixtures.rabbitmq_node
rabbitmq_url = broker_fixtures.rabbitmq_url


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--broker rabbitmq`` lets masters and workers of all tests use it; the record stays on Redis."""
    parser.addoption("--broker", choices=("redis", "rabbitmq"), default="redis")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what looks into the lists that kombu keeps in Redis, where there are none."""
    if config.getoption("--broker") != "redis":
        for item in items:
            if item.get_closest_marker("redis_broker"):
                item.add_marker(pytest.mark.skip(reason="stages or counts messages in Redis"))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    """The server that the tests share."""
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def store(redis_server: EmbeddedRedis) -> Iterator[RedisJobStore]:
    """An empty store."""
    with RedisJobStore(redis_server.redis_url, timeout_seconds=2.0) as store:
        store.client.flushall()
        yield store


@pytest.fixture
def environment(
    request: pytest.FixtureRequest, redis_server: EmbeddedRedis, store: RedisJobStore, tmp_path: Path
) -> Environment:
    """Variables that point masters and workers to the empty server and to the test's own storage."""
    variables = {
        "CL_ML_TOOLS_REDIS_URL": redis_server.redis_url,
        "CL_ML_TOOLS_STORAGE_DIR": str(tmp_path / "media"),
    }
    if request.config.getoption("--broker") == "rabbitmq":
        variables["CL_ML_TOOLS_BROKER_URL"] = request.getfixturevalue("rabbitmq_url")
    return Environment(variables, tmp_path)


@pytest.fixture
def start_worker(environment: Environment) -> Iterator[Callable[..., Process]]:
    """Start real Celery worker processes; all end with the test."""
    started: list[Process] = []

    def start(*options: str, **variables: str) -> Process:
        worker = environment.worker(*options, **variables)
        started.append(worker)
        return worker.wait_for("ready.")

    yield start
    for worker in started:
        worker.kill_group()


@pytest.fixture
def start_master(environment: Environment) -> Iterator[Callable[..., Process]]:
    """Start a real uvicorn process; it has ``url``, and ends with the test."""
    started: list[Process] = []

    def start(**variables: str) -> Process:
        master = environment.master(**variables)
        started.append(master)
        # Said when it listens; its startup is complete before that.
        return master.wait_for("Uvicorn running")

    yield start
    for master in started:
        master.kill_group()


@pytest.fixture
def repository(environment: Environment) -> Iterator[CeleryJobRepository]:
    """The repository that workers of the same environment serve."""
    from cl_ml_tools.app import create_repository

    repository = create_repository(Settings.from_environment(environment.variables))
    yield repository
    repository.close()


@pytest.fixture
def submit(repository: CeleryJobRepository, tmp_path: Path) -> Callable[..., str]:
    """Submit a probe job that does ``steps``; returns its id."""

    def add(
        *steps: list[Any], task_type: str = "probe", priority: int = 5, job_id: str = "", **params: Any
    ) -> str:
        params = {"log": str(tmp_path / "probe.log"), "steps": list(steps), **params}
        job = Job(job_id=job_id or str(uuid.uuid4()), task_type=task_type, params=params)
        return repository.add_job(job, priority=priority)

    return add


@pytest.fixture
def probe_log(tmp_path: Path) -> Callable[[], list[str]]:
    """The words that probe jobs have written so far: ``<job id> <word>``."""

    def read() -> list[str]:
        path = tmp_path / "probe.log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.rsplit(" ", 1)[0] for line in lines]

    return read
