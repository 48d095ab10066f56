"""RabbitMQ for tests: a server of their own when the program is installed, else the one that the URL names."""

import contextlib
import os
from collections.abc import Iterator

import pytest
from rabbitmq_node import INSTALL_HINT, RabbitMQNode, find_rabbitmq

# Not with our prefix: whatever has it must be a setting.
URL_VARIABLE = "TEST_RABBITMQ_URL"


@pytest.fixture(scope="session")
def rabbitmq_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQNode]:
    """A server that tests may stop, kill and cut off; skipped without RabbitMQ at home, a failure in CI."""
    if find_rabbitmq() is None:
        _missing(f"RabbitMQ is not installed. To run this: {INSTALL_HINT}")
    with RabbitMQNode(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node


@pytest.fixture
def rabbitmq_url(request: pytest.FixtureRequest) -> str:
    """The broker's URL; all queues of ours are empty."""
    from cl_ml_tools.celery_bridge.queues import PREFIX

    url = os.environ.get(URL_VARIABLE) or request.getfixturevalue("rabbitmq_node").url
    _empty_queues(
        url, [f"{PREFIX}{task_type}" for task_type in ("probe", "probe_other", "contract", "contract_other")]
    )
    return url


def _empty_queues(url: str, names: list[str]) -> None:
    from kombu.connection import Connection

    # Emptied, not deleted: the connections of the process remember what they have declared.
    with Connection(url) as connection:
        for name in names:
            with contextlib.suppress(*connection.channel_errors), connection.channel() as channel:
                channel.queue_purge(name)


def _missing(why: str) -> None:
    # A check that is skipped at home must not go missing where it counts.
    if os.environ.get("CI") == "true":
        raise RuntimeError(why)
    pytest.skip(why)
