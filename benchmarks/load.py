"""A load run over HTTP: many clients upload pictures, follow their jobs, fetch and remove them, for minutes.

    python -m benchmarks.load [--quick] [--json] [--seconds N] [--clients N] [--concurrency N] [--folder DIR]

One master and one worker, as processes, on 127.0.0.1. Clients ask for the next as soon as they have the last, so the
machine is busy all the time, and a latency holds the wait for its turn. Memory is read every second; its growth is
that of a straight line through what was the most in each tenth of the second half. Run nothing else in Python
meanwhile: a library that several processes share is counted in parts.
"""

import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.load_clients import Client, Seen, uploads
from benchmarks.load_stack import Stack, running_stack
from benchmarks.reporting import Target, options_parser, print_end
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis

PARTS = ("master", "worker_main", "worker_children", "redis")
FLAT_PERCENT = 3.0
"""A part whose memory grows by less in the second half counts as flat."""

Samples = list[tuple[float, dict[str, float]]]


def run(stack: Stack, folder: Path, clients: int, seconds: float) -> tuple[Seen, Samples]:
    """Let the clients work, and read the memory meanwhile."""
    choice, seen, over = uploads(folder / "pictures"), Seen(), threading.Event()
    crowd = [Client(number, stack.port, choice, seen, over) for number in range(clients)]
    for client in crowd:
        client.start()
    begin = time.monotonic()
    samples: Samples = []
    while (now := time.monotonic() - begin) < seconds:
        samples.append((now, stack.memory_mb()))
        time.sleep(max(0.0, min(1.0, seconds / 20) - (time.monotonic() - begin - now)))
    over.set()
    for client in crowd:
        client.join(timeout=120)
    return seen, samples


def growth(samples: Samples, part: str) -> dict[str, float]:
    """Memory in the second half, and how the most of each tenth of it grew.

    The most, because pictures that are open just then come and go: what is lost for good lifts it all the same.
    """
    half = samples[len(samples) // 2 :]
    each = max(1, len(half) // 10)
    tenths = [half[first : first + each] for first in range(0, len(half) - each + 1, each)]
    most = [max(memory[part] for _, memory in tenth) for tenth in tenths]
    slope, _ = statistics.linear_regression([tenth[0][0] for tenth in tenths], most)
    grown = slope * (half[-1][0] - half[0][0])
    return {
        "mb": round(statistics.median(memory[part] for _, memory in half), 1),
        "most_mb": round(max(most), 1),
        "mb_per_minute": round(slope * 60, 3),
        "percent_in_second_half": round(100 * grown / statistics.median(most), 2),
    }


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and the longest."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {
        "median_ms": round(statistics.median(ordered) * 1000, 1),
        "p99_ms": round(p99 * 1000, 1),
        "most_ms": round(ordered[-1] * 1000, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = options_parser(__doc__)
    parser.add_argument("--seconds", type=float, help="how long (300; 20 with --quick)")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--concurrency", type=int, default=2, help="pool processes of the worker")
    parser.add_argument("--folder", type=Path, help="where the files go; a new one below /var/tmp")
    options = parser.parse_args()
    seconds = options.seconds or (20.0 if options.quick else 300.0)
    folder = Path(tempfile.mkdtemp(prefix="load-", dir=options.folder or "/var/tmp"))
    try:
        with (
            EmbeddedRedis() as server,
            running_stack(server.redis_url, folder, options.concurrency) as stack,
        ):
            seen, samples = run(stack, folder, options.clients, seconds)
    finally:
        shutil.rmtree(folder)
    if not seen.job_seconds:
        raise SystemExit(f"no job was done: {seen.errors[:5]}")
    memory = {part: growth(samples, part) for part in PARTS}
    result = {
        "seconds": seconds,
        "clients": options.clients,
        "jobs": len(seen.job_seconds),
        "jobs_per_s": round(len(seen.job_seconds) / seconds, 1),
        "upload": milliseconds(seen.upload_seconds),
        "upload_to_end": milliseconds(seen.job_seconds),
        "events_heard": seen.events,
        "downloads": seen.downloads,
        "downloaded_mb": round(seen.downloaded_bytes / 1e6, 1),
        "errors": len(seen.errors),
        "first_errors": seen.errors[:5],
        "memory": memory,
    }
    for name, value in result.items():
        print(f"{name:>16}: {value}")
    flat = [
        Target(
            f"memory of {part}: growth in the second half, %",
            memory[part]["percent_in_second_half"],
            FLAT_PERCENT,
            is_least=False,
        )
        for part in ("master", "worker_main", "worker_children")
    ]
    every = max(1, len(samples) // 100)
    series = {part: [round(memory[part], 2) for _, memory in samples[::every]] for part in PARTS}
    print_end(
        {**result, "memory_over_time": {"seconds": [round(at, 1) for at, _ in samples[::every]], **series}},
        [Target("errors", len(seen.errors), 0, is_least=False), *flat],
        in_json=options.json,
    )


if __name__ == "__main__":
    main()
