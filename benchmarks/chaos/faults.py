"""What goes wrong in a chaos run, at random by its seed, and when it did."""

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from amqp.exceptions import AMQPError
from kombu.connection import Connection
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from benchmarks.chaos.cluster import LEASE_SECONDS, Cluster, Member
from cl_ml_tools.errors import EmbeddedRedisError


@dataclass
class FaultLog:
    """What was done to whom, by the machine's monotonic clock.

    Attributes:
        killed: when each killed process was killed, by process id and its node's label.
        stood: when each process was stopped, by node and process id: from, to. More than one fault may have its hand
            in that: what one has stopped, another one lets go on.
        mains: each node's main process.
        outages: when a server was away or connections to it were lost, or a main process stood still: Celery's
            event loop waits for it then, and notices a time limit later.
        counts: how often each fault was done.
    """

    killed: dict[tuple[str, int], float] = field(default_factory=dict)
    stood: dict[tuple[str, int], list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    mains: dict[str, int] = field(default_factory=dict)
    outages: list[tuple[float, float]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def was_out(self, start: float, end: float) -> bool:
        """Whether something was away at any time in between, or a moment before."""
        return any(since < end and until > start - 10 for since, until in self.outages)

    @property
    def kills(self) -> int:
        return sum(count for name, count in self.counts.items() if name.startswith("kill_"))

    def was_frozen(self, label: str, pid: int, start: float, end: float) -> bool:
        """Whether, at some time in between, the run's process and its node's main process, both of which keep its
        lease, stood still together for longer than half a lease."""
        main = self.mains.get(label, pid)
        return any(
            min(until, main_until) - max(since, main_since) > LEASE_SECONDS / 2
            for since, until in self.stood.get((label, pid), ())
            for main_since, main_until in self.stood.get((label, main), ())
            if max(since, main_since) < end and min(until, main_until) > start
        )


class Faults:
    """Does faults to a cluster, one after the other; `step` does one and waits a moment.

    Args:
        cluster: to whom.
        seed: of the choices.
        pause_seconds: mean time between two faults.
    """

    def __init__(self, cluster: Cluster, seed: int, pause_seconds: float) -> None:
        self._cluster = cluster
        self._random = random.Random(f"{seed}/faults")
        self._pause_seconds = pause_seconds
        self.log = FaultLog()
        self._background: list[threading.Thread] = []
        self._standing: dict[tuple[str, int], float] = {}
        self._restarting = {"redis": threading.Lock(), "rabbitmq": threading.Lock()}
        self._weights = {
            self.kill_node: 3.0,
            self.kill_child: 5.0,
            self.kill_master: 1.5,
            self.freeze_node_briefly: 1.5,
            self.freeze_node_for_long: 1.0,
            self.stop_main_process: 1.0,
            self.stop_child: 1.0,
            self.stop_redis: 0.7,
            self.cut_connections: 1.0,
            self.lose_messages: 0.7,
            self.shut_down_warmly: 0.7,
            self.shut_down_coldly: 0.7,
        }
        now = time.monotonic()
        self._next_redis_restart = now + self._random.uniform(8, 20)
        self._next_broker_restart = now + self._random.uniform(15, 30)

    def step(self) -> None:
        """Do one fault, let those come back who are gone, and wait a moment."""
        now = time.monotonic()
        if now > self._next_redis_restart:
            self._do(self.restart_redis)
            self._next_redis_restart = time.monotonic() + self._random.uniform(20, 45)
        elif self._cluster.rabbitmq is not None and now > self._next_broker_restart:
            self._do(self.restart_rabbitmq)
            self._next_broker_restart = time.monotonic() + self._random.uniform(30, 60)
        else:
            acts = list(self._weights)
            self._do(self._random.choices(acts, [self._weights[act] for act in acts])[0])
        time.sleep(self._random.expovariate(1 / self._pause_seconds))
        self._cluster.tend()

    def _do(self, act: object) -> None:
        name = act.__name__  # type: ignore[attr-defined]  # a method
        begin = time.monotonic()
        # Whom it was meant for may end by himself meanwhile.
        with contextlib.suppress(ProcessLookupError):
            if act():  # type: ignore[operator]
                self.log.counts[name] += 1
        if name.startswith("cut_"):
            self.log.outages.append((begin, time.monotonic()))

    def _node(self) -> Member | None:
        nodes = self._cluster.nodes()
        return self._random.choice(nodes) if nodes else None

    def _pool_child(self) -> tuple[Member | None, int]:
        """A prefork node, and a process of its pool."""
        pools = [(node, node.pool_children()) for node in self._cluster.nodes()]
        pools = [(node, children) for node, children in pools if children]
        if not pools:
            return None, 0
        node, children = self._random.choice(pools)
        return node, self._random.choice(children)

    def kill_node(self) -> bool:
        """Kill a node with all its processes, as a power cut does."""
        node = self._node()
        return node is not None and self._kill_family(node)

    def kill_master(self) -> bool:
        masters = self._cluster.masters()
        return bool(masters) and self._kill_family(self._random.choice(masters))

    def kill_child(self) -> bool:
        """Kill a process of a prefork pool."""
        node, child = self._pool_child()
        if node is None:
            return False
        os.kill(child, signal.SIGKILL)
        self.log.killed[node.label, child] = time.monotonic()
        return True

    def _kill_family(self, member: Member) -> bool:
        family = member.family()
        # All of them stand still first: the children must not outlive the moment that is noted.
        _signal_all(family, signal.SIGSTOP)
        _signal_all(family, signal.SIGKILL)
        now = time.monotonic()
        for pid in family:
            self.log.killed[member.label, pid] = now
        member.process.kill_group()
        return bool(family)

    def freeze_node_briefly(self) -> bool:
        return self._freeze(self._random.uniform(0.1, 0.4) * LEASE_SECONDS)

    def freeze_node_for_long(self) -> bool:
        """For longer than its leases last."""
        return self._freeze(self._random.uniform(1.2, 2.0) * LEASE_SECONDS)

    def _freeze(self, seconds: float) -> bool:
        node = self._node()
        if node is None:
            return False
        self._pause(node.family(), seconds, node)
        return True

    def stop_main_process(self) -> bool:
        """The main process of a prefork node stands still, its children work on."""
        node, _ = self._pool_child()
        if node is None:
            return False
        self._pause([node.process.pid], 1.5 * LEASE_SECONDS, node)
        return True

    def stop_child(self) -> bool:
        """A pool process stands still for longer than a lease; its node keeps the lease."""
        node, child = self._pool_child()
        if node is None:
            return False
        self._pause([child], 1.5 * LEASE_SECONDS, node)
        return True

    def _pause(self, pids: list[int], seconds: float, node: Member | None = None) -> None:
        """Stop processes, and let them go on later, while other things go wrong."""
        begin = time.monotonic()
        _signal_all(pids, signal.SIGSTOP)
        if node is not None:
            self.log.mains[node.label] = node.process.pid
            for pid in pids:
                self._standing.setdefault((node.label, pid), begin)

        def go_on() -> None:
            _signal_all(pids, signal.SIGCONT)
            end = time.monotonic()
            self.log.outages.append((begin, end))
            if node is not None:
                for pid in pids:
                    since = self._standing.pop((node.label, pid), None)
                    if since is not None:
                        self.log.stood[node.label, pid].append((since, end))

        timer = threading.Timer(seconds, go_on)
        timer.start()
        self._background.append(timer)

    def settle(self) -> None:
        """Return when everybody goes on who was stopped, and the servers are back."""
        for thread in self._background:
            thread.join()

    def _restart(self, name: str, end: Callable[[], None], start: Callable[[], None], away: float) -> bool:
        """Restart a server while other things go wrong; False when it is being restarted."""
        lock = self._restarting[name]
        if not lock.acquire(blocking=False):
            return False

        def restart() -> None:
            begin = time.monotonic()
            end()
            time.sleep(away)
            start()
            self.log.outages.append((begin, time.monotonic()))
            lock.release()

        thread = threading.Thread(target=restart)
        thread.start()
        self._background.append(thread)
        return True

    def stop_redis(self) -> bool:
        """Redis hangs, now and then for longer than a lease."""
        if self._restarting["redis"].locked():
            return False
        seconds = self._random.choice([0.5, 1.5, 3.0, 1.5 * LEASE_SECONDS])
        self._pause([self._cluster.redis.pid], seconds)
        return True

    def restart_redis(self) -> bool:
        away = self._random.choice([0.0, 0.5, 2.0, 1.5 * LEASE_SECONDS])
        return self._restart("redis", self._cluster.kill_redis, self._cluster.start_redis, away)

    def restart_rabbitmq(self) -> bool:
        node = self._cluster.rabbitmq
        assert node is not None
        end = self._random.choice([node.kill, node.stop])
        return self._restart("rabbitmq", end, node.start, self._random.choice([0.0, 2.0]))

    def cut_connections(self) -> bool:
        """All connections to a server are closed by it."""
        node = self._cluster.rabbitmq
        if node is not None and self._random.random() < 0.5:
            return self._restart("rabbitmq", node.close_connections, lambda: None, 0.0)
        return self._tell_redis("CLIENT", "KILL", "TYPE", "normal")

    def _tell_redis(self, *command: str) -> bool:
        """False when it is away."""
        if self._restarting["redis"].locked():
            return False
        with contextlib.suppress(RedisError, EmbeddedRedisError), self._cluster.redis_client() as client:
            client.execute_command(*command)
            return True
        return False

    def lose_messages(self) -> bool:
        """The broker forgets what waits in our queues."""
        names = [f"cl_ml_tools.{task_type}" for task_type in ("chaos", "chaos_poison", "chaos_slow")]
        if self._cluster.rabbitmq is None:
            lists = [f"{name}\x06\x16{level}" for name in names for level in range(1, 10)]
            return self._tell_redis("DEL", *names, *lists)
        # The server is away, or nobody has declared the queue yet.
        with (
            contextlib.suppress(OSError, AMQPError, OperationalError),
            Connection(self._cluster.rabbitmq.url) as connection,
        ):
            for name in names:
                connection.default_channel.queue_purge(name)
            return True
        return False

    def shut_down_warmly(self) -> bool:
        """A node is asked to end; it finishes what it has begun."""
        node = self._node()
        if node is None:
            return False
        node.process.send(signal.SIGTERM)
        return True

    def shut_down_coldly(self) -> bool:
        """A prefork node is told to end at once; it gives back what it has begun."""
        node, _ = self._pool_child()
        if node is None:
            return False
        node.process.send(signal.SIGQUIT)
        return True


def _signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
