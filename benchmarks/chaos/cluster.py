"""The processes of a chaos run: servers, nodes of every kind, masters."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from harness import Process
from rabbitmq_node import RabbitMQNode
from redis import Redis

from cl_ml_tools.stores.embedded_redis import EmbeddedRedis

SITE = Path(__file__).parent / "site"

LEASE_SECONDS = 4.0

SETTINGS = {
    "CL_ML_TOOLS_LEASE_SECONDS": str(LEASE_SECONDS),
    "CL_ML_TOOLS_RECOVERY_INTERVAL_SECONDS": "1",
    "CL_ML_TOOLS_LOST_MESSAGE_SECONDS": "2",
    "CL_ML_TOOLS_CANCEL_GRACE_SECONDS": "2",
    "CL_ML_TOOLS_REDIS_TIMEOUT_SECONDS": "1",
}


@dataclass(frozen=True)
class Kind:
    """A kind of node.

    Attributes:
        name: for people.
        command: behind ``python -m``.
        clock_offset: by how much its wall clock is wrong, in seconds.
    """

    name: str
    command: tuple[str, ...]
    clock_offset: int = 0

    @property
    def is_prefork(self) -> bool:
        return "prefork" in self.name


def _celery(app: str, *options: str) -> tuple[str, ...]:
    return ("celery", "-A", app, "worker", "-l", "INFO", "--without-gossip", "--without-mingle", *options)


# What ends its process, or is stopped from outside only, goes to pools whose processes can be replaced.
ONLY_PLAIN = ("-Q", "cl_ml_tools.chaos")

KINDS = (
    Kind("prefork", _celery("cl_ml_tools", "-c", "4")),
    Kind("prefork-ahead", _celery("cl_ml_tools", "-c", "2"), clock_offset=3600),
    Kind("threads", _celery("cl_ml_tools", "--pool", "threads", "-c", "4", *ONLY_PLAIN)),
    Kind("solo", _celery("cl_ml_tools", "--pool", "solo", *ONLY_PLAIN)),
    Kind("prefork-spawn", _celery("benchmarks.chaos.spawn_app", "-c", "2", *ONLY_PLAIN)),
    Kind("poller", ("benchmarks.chaos.poller", "chaos"), clock_offset=-3600),
)


@dataclass
class Member:
    """One start of a node or master.

    Attributes:
        label: its name, unique in the run.
        process: its main process.
        kind: which kind of node; None for a master.
    """

    label: str
    process: Process
    kind: Kind | None
    stopped: list[int] = field(default_factory=list)

    @property
    def is_alive(self) -> bool:
        return self.process.popen.poll() is None

    def family(self) -> list[int]:
        """Its main process and all its children."""
        try:
            return [self.process.pid, *(child.pid for child in self.process.children())]
        except psutil.NoSuchProcess:
            return []

    def pool_children(self) -> list[int]:
        """The processes that its pool runs jobs in (and, under spawn, a helper of the interpreter)."""
        return self.family()[1:] if self.kind is not None and self.kind.is_prefork else []


class Cluster:
    """Starts what a run needs in one folder, and what ends again.

    Args:
        folder: of all that the run leaves.
        broker: ``redis`` or ``rabbitmq``.
        seed: of what the masters do.
        masters: how many submit.
    """

    def __init__(self, folder: Path, broker: str, seed: int, masters: int) -> None:
        self.folder = folder
        for name in ("traces", "journals", "logs"):
            (folder / name).mkdir()
        self._seed = seed
        self._random = random.Random(f"{seed}/cluster")
        self.redis = EmbeddedRedis(folder / "redis")
        self.rabbitmq = RabbitMQNode(folder / "rabbitmq") if broker == "rabbitmq" else None
        self.members: list[Member | None] = [None] * (len(KINDS) + masters)
        self._count = 0
        self.submitting = True
        self.variables: dict[str, str] = {}

    def start(self) -> None:
        """Start servers, then everybody else."""
        self.start_redis()
        self.variables = {
            **SETTINGS,
            "CL_ML_TOOLS_REDIS_URL": self.redis.redis_url,
            "CL_ML_TOOLS_STORAGE_DIR": str(self.folder / "media"),
            "PYTHONPATH": str(SITE),
            "C_FORCE_ROOT": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if self.rabbitmq is not None:
            self.rabbitmq.start()
            self.variables["CL_ML_TOOLS_BROKER_URL"] = self.rabbitmq.url
        self.tend()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Return when all nodes have said so."""
        for member in self.nodes():
            member.process.wait_for("ready.", seconds=60)

    def start_redis(self) -> None:
        """Start the server on its data, with every write on disk before it is answered."""
        self.redis.start()
        with self.redis_client() as client:
            client.config_set("appendfsync", "always")

    def redis_client(self) -> Redis:
        return Redis.from_url(self.redis.redis_url, decode_responses=True)

    def kill_redis(self) -> None:
        """Kill the server; `start_redis` brings it back with its data."""
        os.kill(self.redis.pid, signal.SIGKILL)
        self.redis.stop()

    def tend(self) -> None:
        """Start whoever is not there."""
        for place, member in enumerate(self.members):
            if member is None or not member.is_alive:
                kind = KINDS[place] if place < len(KINDS) else None
                if kind is not None or self.submitting:
                    self.members[place] = self._start_member(kind)

    def nodes(self) -> list[Member]:
        """The nodes that live."""
        return [m for m in self.members if m is not None and m.kind is not None and m.is_alive]

    def masters(self) -> list[Member]:
        """The masters that live."""
        return [m for m in self.members if m is not None and m.kind is None and m.is_alive]

    def _start_member(self, kind: Kind | None) -> Member:
        self._count += 1
        label = f"{'master' if kind is None else kind.name}.{self._count}"
        variables = {**self.variables, "CHAOS_NODE": label}
        if kind is None:
            command = ["benchmarks.chaos.submitter", str(self.folder), f"{self._seed}/{label}"]
        else:
            command = list(kind.command)
            variables["CHAOS_CLOCK_OFFSET"] = str(kind.clock_offset)
            if command[0] == "celery":
                command += ["-n", f"{label}@chaos"]
        log = self.folder / "logs" / f"{label}.log"
        return Member(label, Process([sys.executable, "-m", *command], variables, log), kind)

    def end_masters(self) -> None:
        """Nothing more is submitted."""
        self.submitting = False
        for member in self.masters():
            member.process.kill_group()

    def end_nodes(self) -> None:
        """End the nodes in order, those that do not end in time by force."""
        for member in self.nodes():
            member.process.send(signal.SIGTERM)
        end = time.monotonic() + 20
        for member in self.nodes():
            try:
                member.process.popen.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                member.process.kill_group()

    def close(self) -> None:
        """End all that is left."""
        for member in self.members:
            if member is not None:
                member.process.kill_group()
        if self.rabbitmq is not None:
            self.rabbitmq.kill()
        self.redis.stop()
