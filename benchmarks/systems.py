"""What a system is that is measured beside others: how it is started, and how many of its jobs are left."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

ROOT = Path(__file__).parent.parent
PLUGINS = Path(__file__).parent / "noop_plugin"
PROGRAMS = Path(__file__).parent / "programs"

PLAIN = "plain Celery"
STORING = "Celery, result and progress"
OURS = "cl_ml_tools"
OLD = "cl_ml_tools 0.2.0"


@dataclass
class System:
    """One way to have jobs done.

    Attributes:
        name: for people.
        program: below ``benchmarks.programs``; its ``__main__`` is the producer.
        worker: what follows ``python -m``; ``{n}`` is the number of pool processes.
        environment: variables of both.
        lists: lists in Redis whose lengths are the jobs that wait.
        hashes: hashes whose lengths are the jobs that are not acknowledged.
        zsets: sorted sets, likewise.
        stream: a stream with a consumer group of the same name, instead of these.
        adds_many: whether the producer has a bulk act.
        most: not more jobs than this in one round.
    """

    name: str
    program: str
    worker: str
    environment: dict[str, str]
    lists: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()
    zsets: tuple[str, ...] = ()
    stream: str = ""
    adds_many: bool = False
    most: int = 100_000

    def producer_command(self) -> list[str]:
        """What starts its producer."""
        return [sys.executable, "-m", f"benchmarks.programs.{self.program}"]

    def worker_commands(self, concurrency: int) -> list[list[str]]:
        """What starts its worker with so many processes that run jobs."""
        return [[sys.executable, "-m", *self.worker.format(n=concurrency).split()]]

    def variables(self) -> dict[str, str]:
        """The whole environment of its processes."""
        return {**os.environ, "C_FORCE_ROOT": "1", "PYTHONPATH": f"{ROOT}:{PLUGINS}", **self.environment}

    def reset(self, client: "Redis") -> None:
        """Forget all jobs."""
        client.flushall()

    def left(self, client: "Redis") -> int:
        """How many jobs wait or are not acknowledged; asked in one round trip."""
        if self.stream:
            try:
                groups: Any = client.xinfo_groups(self.stream)
            except ResponseError:  # no job so far
                return 0
            if not groups:
                return int(client.xlen(self.stream))
            return int(sum(group["lag"] + group["pending"] for group in groups))
        pipeline = client.pipeline(transaction=False)
        for name in self.lists:
            pipeline.llen(name)
        for name in self.hashes:
            pipeline.hlen(name)
        for name in self.zsets:
            pipeline.zcard(name)
        return sum(pipeline.execute())

    @property
    def commands_to_ask(self) -> int:
        """How many commands `left` sends."""
        return 1 if self.stream else len(self.lists) + len(self.hashes) + len(self.zsets)
