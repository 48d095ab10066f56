"""taskiq on a Redis stream, which it acknowledges: another engine, without leases, records or progress."""

import asyncio
import importlib
import os
from typing import Any

from benchmarks.noop_plugin.started import tell_start
from benchmarks.programs.serving import serve

# Not a dependency: loaded where it is installed, and not looked at by the type checker.
_redis: Any = importlib.import_module("taskiq_redis")
# From the first message on: the worker starts when all are sent.
broker: Any = _redis.RedisStreamBroker(os.environ["BENCHMARK_REDIS_URL"], consumer_id="0-0", xread_count=1)


async def _noop(number: int) -> None:
    tell_start()


noop: Any = broker.register_task(_noop, task_name="noop")

if __name__ == "__main__":
    with asyncio.Runner() as runner:
        runner.run(broker.startup())
        serve(lambda: runner.run(noop.kiq(1)))
