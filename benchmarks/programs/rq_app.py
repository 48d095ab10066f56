"""rq: another engine; it forks a process for each job, and keeps a result."""

import importlib
import os
from typing import Any

from redis import Redis

from benchmarks.noop_plugin.started import tell_start
from benchmarks.programs.serving import serve

URL = os.environ["BENCHMARK_REDIS_URL"]


def noop(number: int) -> None:
    tell_start()


def _produce() -> None:
    # Not a dependency: loaded where it is installed, and not looked at by the type checker.
    rq: Any = importlib.import_module("rq")
    queue = rq.Queue(connection=Redis.from_url(URL))
    serve(lambda: queue.enqueue("benchmarks.programs.rq_app.noop", 1))


if __name__ == "__main__":
    _produce()
