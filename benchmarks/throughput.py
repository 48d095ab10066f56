"""How many jobs that do nothing are submitted and done: this package beside plain Celery.

``python -m benchmarks.throughput [--quick] [--json]``. All systems in one run, in alternating order; medians of
the rounds. Rates depend on the machine, the ratios and counts hardly.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from typing import Any

from redis import Redis

from benchmarks.systems import Ours, PlainCelery, System, cpu_seconds, left, running_worker, wait_left
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis


def measure(system: System, client: "Redis", count: int, concurrency: int) -> dict[str, float]:
    """One round: submit, then drain."""
    client.flushall()
    client.config_resetstat()
    start = time.monotonic()
    system.enqueue(count)
    enqueued = time.monotonic() - start
    stats: Any = client.info("stats")
    figures = {
        "enqueue_per_s": count / enqueued,
        "enqueue_round_trips": stats["total_reads_processed"] / count,
        "enqueue_commands": stats["total_commands_processed"] / count,
    }
    assert left(client, system.queue) == count, "all were sent"
    with running_worker(system, concurrency) as worker:
        begin = wait_left(client, system.queue, int(count * 0.9))
        cpu, reads, commands = cpu_seconds(worker), *_counts(client)
        first = left(client, system.queue)
        end = wait_left(client, system.queue, int(count * 0.05))
        last = left(client, system.queue)
        done = first - last
        figures |= {
            "drain_per_s": done / (end - begin),
            "cpu_us_per_job": (cpu_seconds(worker) - cpu) / done * 1e6,
            "run_round_trips": (_counts(client)[0] - reads) / done,
            "run_commands": (_counts(client)[1] - commands) / done,
        }
    return figures


def _counts(client: "Redis") -> tuple[int, int]:
    stats: Any = client.info("stats")
    return stats["total_reads_processed"], stats["total_commands_processed"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer jobs and rounds")
    parser.add_argument("--json", action="store_true", help="figures and ratios as the last line")
    parser.add_argument("--concurrency", type=int, default=2)
    options = parser.parse_args()
    count, rounds = (600, 2) if options.quick else (3000, 5)
    with EmbeddedRedis() as server:
        client = Redis.from_url(server.redis_url)
        systems: list[System] = [
            PlainCelery(server.redis_url, stores=False),
            PlainCelery(server.redis_url, stores=True),
            Ours(server.redis_url),
        ]
        seen: dict[str, list[dict[str, float]]] = defaultdict(list)
        for number in range(rounds):
            for system in systems if number % 2 == 0 else reversed(systems):
                seen[system.name].append(measure(system, client, count, options.concurrency))
    medians = {
        name: {key: statistics.median(figures[key] for figures in runs) for key in runs[0]}
        for name, runs in seen.items()
    }
    plain = medians["plain Celery"]
    print(f"{'':30}" + "".join(f"{key:>22}" for key in plain))
    for name, figures in medians.items():
        print(f"{name:30}" + "".join(f"{value:22.1f}" for value in figures.values()))
    ratios = {
        name: {key: round(value / plain[key], 3) for key, value in figures.items()}
        for name, figures in medians.items()
    }
    print("against plain Celery")
    for name, figures in ratios.items():
        print(f"{name:30}" + "".join(f"{value:22.2f}" for value in figures.values()))
    if options.json:
        print(json.dumps({"figures": medians, "ratios": ratios}))


if __name__ == "__main__":
    main()
