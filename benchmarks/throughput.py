"""How many jobs that do nothing are submitted and done: this package beside others, in one run.

    python -m benchmarks.throughput [--quick] [--json] [--no-events]

Each round takes all systems in turn, every other round backwards. Figures are medians and ranges of the rounds, ratios
those of each round against plain Celery's. Rates depend on the machine and on what else it does, ratios much less,
counts hardly.
"""

import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from redis import Redis

from benchmarks.line_up import chosen_systems
from benchmarks.redis_counts import CommandCounter, Counts
from benchmarks.reporting import (
    Figures,
    Target,
    as_json,
    options_parser,
    print_end,
    print_table,
    ratios,
    spreads,
)
from benchmarks.running import Producer, StalledError, running_worker, wait_left
from benchmarks.systems import OURS, PLAIN, STORING, System
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis

BULK = f"{OURS}, add_jobs"


class Bench:
    """The server, and what all measurements need."""

    def __init__(self, server: EmbeddedRedis, concurrency: int) -> None:
        self.server = server
        self.client = Redis.from_url(server.redis_url)
        self.concurrency = concurrency

    def enqueue(self, system: System, producer: Producer, count: int, *, in_bulk: bool) -> dict[str, float]:
        """Submit to an empty system."""
        system.reset(self.client)
        producer.submit(min(100, count))  # what is loaded and connected at the first submission
        system.reset(self.client)
        took = producer.submit(count, in_bulk=in_bulk)
        assert system.left(self.client) == count, f"{system.name}: all were sent"
        return {
            "enqueue_per_s": count / took["seconds"],
            "enqueue_cpu_us": took["cpu_seconds"] / count * 1e6,
        }

    def drain(self, system: System, count: int) -> dict[str, float]:
        """Have a worker do what is there; its start and its last jobs are left out."""
        with running_worker(system, self.concurrency, self.server.pid) as worker:
            begin, first = wait_left(system, self.client, int(count * 0.9))
            before = worker.cost()
            end, last = wait_left(system, self.client, int(count * 0.1))
            after = worker.cost()
            done = first - last
            if done == 0:
                raise StalledError(f"{system.name}: {count} jobs were done before they could be counted")
            return {
                "drain_per_s": done / (end - begin),
                "main_cpu_us": (after.main - before.main) / done * 1e6,
                "children_cpu_us": (after.children - before.children) / done * 1e6,
                "redis_cpu_us": (after.redis - before.redis) / done * 1e6,
                "worker_cpu_us": (after.main + after.children - before.main - before.children) / done * 1e6,
                "worker_memory_mb": worker.memory_mb(),
            }

    def count(self, system: System, producer: Producer, count: int) -> dict[str, float]:
        """Commands and round trips of a job. Few of them are of an idle worker, since it is always busy."""
        system.reset(self.client)
        producer.submit(20)
        system.reset(self.client)
        with CommandCounter(self.client) as counter:
            before = counter.counts()
            producer.submit(count)
            enqueued = counter.counts() - before - Counts(2, 0, 1)
            with running_worker(system, self.concurrency, self.server.pid):
                wait_left(system, self.client, int(count * 0.9))
                first = system.left(self.client)
                before = counter.counts()
                asked = 0
                last = first
                while last > count * 0.2:
                    time.sleep(0.05)
                    last = system.left(self.client)
                    asked += 1
                own = Counts(2 + asked * system.commands_to_ask, 0, 1 + asked)
                run = counter.counts() - before - own
        done = first - last
        return {
            "enqueue_commands": enqueued.commands / count,
            "enqueue_round_trips": enqueued.round_trips / count,
            "enqueue_in_scripts": enqueued.in_scripts / count,
            "run_commands": run.commands / done,
            "run_round_trips": run.round_trips / done,
            "run_in_scripts": run.in_scripts / done,
        }


def one_round(
    bench: Bench, system: System, producer: Producer, count: int
) -> tuple[dict[str, float], dict[str, float]]:
    """The figures of one round, and those of the bulk act when there is one."""
    count = min(count, system.most)
    bulk = bench.enqueue(system, producer, count, in_bulk=True) if system.adds_many else {}
    figures = bench.enqueue(system, producer, count, in_bulk=False)
    try:
        figures |= bench.drain(system, count)
    except StalledError as error:
        print(error)
    return figures, bulk


def targets_of(rates: dict[str, Figures], figures: dict[str, Figures], storing: Figures) -> list[Target]:
    """What issue 8 asks of this benchmark."""
    ours, plain = rates[OURS], figures[PLAIN]
    targets = [
        Target("drain rate, to plain Celery's", ours["drain_per_s"].median, 0.95, is_least=True),
        Target(
            "drain rate, to that of Celery doing the same", storing["drain_per_s"].median, 2.0, is_least=True
        ),
        Target("enqueue rate, to send_task's", ours["enqueue_per_s"].median, 0.95, is_least=True),
    ]
    if BULK in rates:
        bulk = rates[BULK]["enqueue_per_s"].median
        targets.append(Target("enqueue rate of add_jobs, to send_task's", bulk, 2.0, is_least=True))
    more = figures[OURS]["run_round_trips"].median - plain["run_round_trips"].median
    return [
        *targets,
        # Two are asked for; a tenth is for a connection that is made anew meanwhile.
        Target("round trips to enqueue", figures[OURS]["enqueue_round_trips"].median, 2.1, is_least=False),
        Target("round trips to run, more than plain Celery", more, 3, is_least=False),
    ]


def main() -> None:
    """Measure and print."""
    parser = options_parser(__doc__)
    parser.add_argument("--concurrency", type=int, default=2, help="pool processes of each worker")
    parser.add_argument("--no-events", dest="events", action="store_false", help="Celery without task events")
    parser.add_argument("--only-celery", action="store_true", help="no 0.2.0 and no other engines")
    options = parser.parse_args()
    count, rounds = (300, 2) if options.quick else (2000, 5)
    seen: dict[str, list[dict[str, float]]] = defaultdict(list)
    with (
        EmbeddedRedis() as server,
        tempfile.TemporaryDirectory(dir="/var/tmp") as folder,
        ExitStack() as stack,
    ):
        bench = Bench(server, options.concurrency)
        systems = chosen_systems(
            server.redis_url, Path(folder), events=options.events, only_celery=options.only_celery
        )
        producers = {system.name: stack.enter_context(Producer(system)) for system in systems}
        for number in range(rounds):
            for system in systems if number % 2 == 0 else reversed(systems):
                figures, bulk = one_round(bench, system, producers[system.name], count)
                seen[system.name].append(figures)
                if bulk:
                    seen[BULK].append(bulk)
        counts = {
            system.name: [bench.count(system, producers[system.name], min(count, 400))]
            for system in systems
            if system.program
        }
    medians = spreads({name: [*runs, *counts.get(name, [])] for name, runs in seen.items()})
    compared = ratios(seen, PLAIN)
    storing = ratios({name: seen[name] for name in (OURS, STORING)}, STORING)[OURS]
    print_table("a job that does nothing: median [range]", medians)
    print_table("against plain Celery in the same round", compared)
    print_end(
        {
            "events": options.events,
            "figures": as_json(medians),
            "ratios": as_json(compared),
            "ours_to_celery_doing_the_same": as_json({OURS: storing})[OURS],
        },
        targets_of(compared, medians, storing),
        in_json=options.json,
    )


if __name__ == "__main__":
    main()
