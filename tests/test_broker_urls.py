from typing import Any

import pytest
from kombu.connection import Connection
from redis import ConnectionPool

from cl_ml_tools.broker_urls import broker_url_for
from cl_ml_tools.errors import SettingsError


def as_celery_reads_it(url: str) -> dict[str, Any]:
    """The connection parameters that kombu's Redis transport makes of a broker URL, without connecting."""
    with Connection(url) as connection:
        assert connection.transport_cls == "redis"
        channel_class = connection.get_transport_cls().Channel
        channel = channel_class.__new__(channel_class)
        channel.connection = type("Link", (), {"client": connection, "default_port": 6379})
        parameters: dict[str, Any] = channel._connparams()
        return parameters


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:6379/0", "rediss://me:secret@redis.example:6380/2?ssl_ca_certs=/ca"]
)
def test_a_url_over_tcp_stays_as_it_is(url: str) -> None:
    assert broker_url_for(url) == url


@pytest.mark.parametrize(
    ("redis_url", "broker_url"),
    [
        ("unix:///run/redis.sock", "redis+socket:///run/redis.sock?virtual_host=0"),
        ("unix:///run/redis.sock?db=3", "redis+socket:///run/redis.sock?virtual_host=3"),
        ("unix://:secret@/run/redis.sock?db=1", "redis+socket://:secret@/run/redis.sock?virtual_host=1"),
        ("unix:///run/redis.sock?password=secret", "redis+socket://:secret@/run/redis.sock?virtual_host=0"),
        (
            "unix://me:s%40c%2Fret@/run/redis.sock",
            "redis+socket://me:s%40c%2Fret@/run/redis.sock?virtual_host=0",
        ),
        ("unix:///my dir/a;b.sock?socket_timeout=5", "redis+socket:///my%20dir/a%3Bb.sock?virtual_host=0"),
    ],
)
def test_a_unix_socket_gets_the_spelling_of_celery(redis_url: str, broker_url: str) -> None:
    assert broker_url_for(redis_url) == broker_url


@pytest.mark.parametrize(
    "redis_url",
    [
        "unix:///run/redis.sock?db=3",
        "unix://me:s%40c%2Fret@/run/my%20dir/a;b.sock",
        "unix://me@/run/redis.sock?db=2&password=p%26w",
    ],
)
def test_celery_reaches_the_server_that_redis_py_reaches(redis_url: str) -> None:
    theirs = ConnectionPool.from_url(redis_url).connection_kwargs
    celerys = as_celery_reads_it(broker_url_for(redis_url))
    assert celerys["path"] == theirs["path"]
    assert celerys["db"] == theirs.get("db", 0)
    assert celerys["username"] == theirs.get("username")
    assert celerys["password"] == theirs.get("password")


@pytest.mark.parametrize(
    "url", ["amqp://guest:secret@localhost//", "unix://run/redis.sock:secret", "unix://", "secret"]
)
def test_what_redis_py_does_not_take_is_refused_without_telling_a_password(url: str) -> None:
    with pytest.raises(SettingsError, match="CL_ML_TOOLS_REDIS_URL") as caught:
        broker_url_for(url)
    assert "secret" not in str(caught.value)
