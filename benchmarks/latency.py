"""How long a job waits on an idle system, from its submission to the first line of its task.

    python -m benchmarks.latency [--quick] [--json] [--no-events]

One job after the other, each submitted when the one before has started and a moment has passed. Each system's worker
runs alone. The time begins before the job is submitted, so what the submission takes is in it.
"""

import random
import socket
import statistics
import struct
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from redis import Redis

from benchmarks.line_up import chosen_systems
from benchmarks.reporting import Target, as_json, options_parser, print_end, print_table, ratios, spreads
from benchmarks.running import Producer, running_worker
from benchmarks.systems import OLD, OURS, PLAIN, System
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis

START_SECONDS = 60.0
"""How long a worker may take to start, and a job."""


def waits_ms(
    system: System, producer: Producer, started: socket.socket, server: EmbeddedRedis, count: int
) -> list[float]:
    """How long each of so many jobs waited, on a worker of its own."""
    system.reset(Redis.from_url(server.redis_url))
    waits = []
    address = started.getsockname()
    with running_worker(system, 2, server.pid, BENCHMARK_STARTED=address):
        # The first ones wait for the worker, and for what it loads.
        for number in range(count + 5):
            begun = producer.submit(1)["begun"]
            (at,) = struct.unpack("d", started.recv(8))
            if number >= 5:
                waits.append((at - begun) * 1000)
            # Not in step with a worker that asks at intervals.
            time.sleep(random.uniform(0.01, 1.1 if system.name == OLD else 0.06))
    return waits


def figures_of(waits: list[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    return {"median_ms": statistics.median(waits), "p95_ms": statistics.quantiles(waits, n=20)[-1]}


def main() -> None:
    """Measure and print."""
    parser = options_parser(__doc__)
    parser.add_argument("--no-events", dest="events", action="store_false", help="Celery without task events")
    parser.add_argument("--only-celery", action="store_true", help="no 0.2.0 and no other engines")
    options = parser.parse_args()
    count, rounds = (20, 2) if options.quick else (100, 5)
    seen: dict[str, list[dict[str, float]]] = defaultdict(list)
    with EmbeddedRedis() as server, tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as started:
            started.bind(str(folder / "started"))
            started.settimeout(START_SECONDS)
            systems = chosen_systems(
                server.redis_url, folder, events=options.events, only_celery=options.only_celery
            )
            for number in range(rounds):
                for system in systems if number % 2 == 0 else reversed(systems):
                    # It asks once a second: a few tell enough.
                    jobs = min(count, 20) if system.name == OLD else count
                    with Producer(system) as producer:
                        seen[system.name].append(
                            figures_of(waits_ms(system, producer, started, server, jobs))
                        )
    figures, compared = spreads(seen), ratios(seen, PLAIN)
    print_table("submission to start, ms: median [range] of the rounds", figures)
    print_table("against plain Celery in the same round", compared)
    to_plain = compared[OURS]["median_ms"].median
    print_end(
        {"events": options.events, "figures": as_json(figures), "ratios": as_json(compared)},
        [Target("submission to start, to plain Celery's", to_plain, 1.3, is_least=False)],
        in_json=options.json,
    )


if __name__ == "__main__":
    main()
