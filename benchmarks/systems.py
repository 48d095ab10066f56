"""The systems that are measured side by side: how each is started, and how many of its jobs are left."""

import hashlib
import importlib.util
import os
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from cl_ml_tools.broker_urls import broker_url_for

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


@dataclass
class Release020(System):
    """0.2.0 from the package index, apart from this package: they have one name."""

    folder: Path = field(default_factory=Path)
    database: Path = field(default_factory=Path)
    total: int = 0

    def producer_command(self) -> list[str]:
        """See `System`."""
        return self._command("produce")

    def worker_commands(self, concurrency: int) -> list[list[str]]:
        """See `System`. Its worker is one process that runs one job after the other."""
        return [self._command("work")] * concurrency

    def variables(self) -> dict[str, str]:
        """See `System`."""
        return {**os.environ, "PYTHONPATH": str(self.folder)}

    def _command(self, act: str) -> list[str]:
        # -S: without the site directory, where this package is.
        return [sys.executable, "-S", str(PROGRAMS / "release_0_2_0.py"), act, str(self.database)]

    def reset(self, client: "Redis") -> None:
        """See `System`."""
        for path in self._counts():
            path.unlink()
        with sqlite3.connect(self.database, timeout=30) as connection:
            connection.execute("DELETE FROM jobs")

    def left(self, client: "Redis") -> int:
        """See `System`. While workers run they are asked, not the database: a reader waits there for all of them."""
        if counts := self._counts():
            return self.total - sum(int.from_bytes(path.read_bytes()) for path in counts)
        with sqlite3.connect(self.database, timeout=30) as connection:
            (self.total,) = connection.execute("SELECT count(*) FROM jobs").fetchone()
        return self.total

    def _counts(self) -> list[Path]:
        """One file for each worker, which it keeps."""
        return list(self.database.parent.glob(f"{self.database.name}.done-*"))


def celery_systems(redis_url: str, *, events: bool = True) -> list[System]:
    """Plain Celery, Celery that does the same as ours, and ours."""
    celery = {
        "BENCHMARK_BROKER_URL": broker_url_for(redis_url),
        "BENCHMARK_RESULT_URL": redis_url.replace("unix://", "redis+socket://").split("?")[0],
        "BENCHMARK_EVENTS": str(int(events)),
    }
    quiet = "--without-mingle --without-gossip -l ERROR"
    plain = f"celery -A benchmarks.programs.plain_celery worker -c {{n}} {quiet}"
    app = "cl_ml_tools" if events else "benchmarks.programs.ours"
    ours = {"CL_ML_TOOLS_REDIS_URL": redis_url, "BENCHMARK_EVENTS": str(int(events))}
    return [
        System(
            PLAIN, "plain_celery", plain, {**celery, "BENCHMARK_STORES": "0"}, _levels("celery"), ("unacked",)
        ),
        System(
            STORING,
            "plain_celery",
            plain,
            {**celery, "BENCHMARK_STORES": "1"},
            _levels("celery"),
            ("unacked",),
        ),
        System(
            OURS,
            "ours",
            f"celery -A {app} worker -c {{n}} {quiet}",
            ours,
            _levels("cl_ml_tools.noop"),
            ("unacked",),
            adds_many=True,
        ),
    ]


def _levels(queue: str) -> tuple[str, ...]:
    """The lists of kombu's ten priorities."""
    return (queue, *(f"{queue}\x06\x16{step}" for step in range(1, 10)))


def other_engines(redis_url: str) -> tuple[list[System], list[str]]:
    """Those that are installed, and a line for each that is not.

    As many processes as Celery has; in each as many jobs at once as they have by themselves.
    """
    url = {"BENCHMARK_REDIS_URL": redis_url}
    engines = {
        "taskiq_redis": System(
            "taskiq",
            "taskiq_app",
            "taskiq worker benchmarks.programs.taskiq_app:broker -w {n} --log-level ERROR",
            url,
            stream="taskiq",
        ),
        "dramatiq": System(
            "dramatiq",
            "dramatiq_app",
            "dramatiq benchmarks.programs.dramatiq_app -p {n}",
            url,
            hashes=("dramatiq:default.msgs",),
        ),
        "rq": System(
            "rq",
            "rq_app",
            f"rq.cli worker-pool -n {{n}} -q -u {redis_url}",
            url,
            ("rq:queue:default",),
            zsets=("rq:wip:default",),
            most=300,
        ),
    }
    missing = [name for name in engines if importlib.util.find_spec(name) is None]
    lines = [f"{name} is not installed: left out (pip install 'cl_ml_tools[bench]')" for name in missing]
    return [system for name, system in engines.items() if name not in missing], lines


def release_0_2_0(folder: Path) -> System:
    """0.2.0, installed once below the temporary directory, with its database in ``folder``.

    Raises:
        subprocess.CalledProcessError: it cannot be installed; its output says why.
    """
    requirement = "cl_ml_tools==0.2.0"
    version = hashlib.sha256(sys.version.encode()).hexdigest()[:8]
    installed = Path(tempfile.gettempdir()) / f"cl_ml_tools-benchmark-0.2.0-{version}"
    if not installed.exists():
        partial = Path(tempfile.mkdtemp())
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(partial), requirement]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        partial.replace(installed)
    # Its fetch looks at all queued jobs, without an index: thousands take minutes.
    return Release020(OLD, "", "", {}, most=1000, folder=installed, database=folder / "jobs.db")
