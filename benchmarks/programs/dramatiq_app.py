"""dramatiq on Redis: another engine, without leases, records or progress."""

import importlib
import os
from typing import Any

from benchmarks.noop_plugin.started import tell_start
from benchmarks.programs.serving import serve

# Not a dependency: loaded where it is installed, and not looked at by the type checker.
_dramatiq: Any = importlib.import_module("dramatiq")
_redis: Any = importlib.import_module("dramatiq.brokers.redis")
broker: Any = _redis.RedisBroker(url=os.environ["BENCHMARK_REDIS_URL"])
_dramatiq.set_broker(broker)


def _noop(number: int) -> None:
    tell_start()


noop: Any = _dramatiq.actor(_noop, actor_name="noop")

if __name__ == "__main__":
    serve(lambda: noop.send(1))
