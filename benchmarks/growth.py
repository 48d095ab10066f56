"""What growing numbers cost: records, queued jobs, task types, watchers.

    python -m benchmarks.growth [--quick] [--json]

Each size is measured in turns with a small server (100 records), so that noise strikes both. `_us` is the median by the
client's clock, `_server_us` what the server counts for it. Records are loaded as `benchmarks.record_loading` says.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.finished_job import finish_one, new_job
from benchmarks.growth_acts import TimedStore
from benchmarks.record_loading import RecordLoader, used_memory
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
from benchmarks.watcher_growth import watching
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis
from cl_ml_tools.stores.redis_jobs import RedisJobStore

SMALL = "100 records"
FLAT = ("get", "add", "claim", "finish")


@contextmanager
def loaded_store(records: int = 100) -> Iterator[tuple[RedisJobStore, RecordLoader]]:
    """A server of its own with so many records."""
    with EmbeddedRedis() as server, RedisJobStore(server.redis_url, timeout_seconds=30) as store:
        loader = RecordLoader(store)
        loader.load(records)
        yield store, loader


class Comparison:
    """A small server, and measurements in turns with it."""

    def __init__(self, small: TimedStore, count: int, rounds: int) -> None:
        self._small = small
        self._count = count
        self._rounds = rounds

    def beside(self, name: str, timed: TimedStore) -> tuple[dict[str, Figures], Figures]:
        """The figures of both, and the ratios of ``timed``."""
        seen: dict[str, list[dict[str, float]]] = {SMALL: [], name: []}
        for member in (self._small, timed):
            member.measure(5)  # what is loaded at the first call
        for number in range(self._rounds):
            turn = [(SMALL, self._small), (name, timed)]
            for who, member in turn if number % 2 == 0 else reversed(turn):
                seen[who].append(member.measure(self._count))
        return spreads(seen), ratios(seen, SMALL)[name]


def by_records(
    comparison: Comparison, sizes: list[int]
) -> tuple[dict[str, Figures], dict[str, Figures], float]:
    """Figures and ratios for each size, and the bytes of a record."""
    figures: dict[str, Figures] = {}
    compared: dict[str, Figures] = {}
    with loaded_store(1) as (store, loader):
        timed, have = TimedStore(store, loader.any_id), 1
        before = used_memory(store)
        for size in sizes:
            begin = time.monotonic()
            loader.load(size - have)
            have = size
            print(f"{size:>9,} records, loaded in {time.monotonic() - begin:.1f} s")
            # Before it is measured: the acts leave jobs of their own.
            per_record = (used_memory(store) - before) / size
            name = f"{size:,} records"
            both, compared[name] = comparison.beside(name, timed)
            figures[name] = both[name]
        return figures, compared, per_record


def by_queued(comparison: Comparison, sizes: list[int]) -> tuple[dict[str, Figures], dict[str, Figures]]:
    """Figures and ratios with so many jobs in the line of those that are measured."""
    figures, compared = {}, {}
    with loaded_store() as (store, loader):
        have = 0
        for size in sizes:
            list(store.add_all([new_job() for _ in range(size - have)], created_by="somebody else"))
            have = size
            name = f"{size:,} queued"
            both, compared[name] = comparison.beside(name, TimedStore(store, loader.any_id))
            figures[name] = both[name]
    return figures, compared


def by_task_types(comparison: Comparison, sizes: list[int]) -> tuple[dict[str, Figures], dict[str, Figures]]:
    """Figures and ratios with so many task types, each with a queued job; workers ask for all of them."""
    figures, compared = {}, {}
    with loaded_store() as (store, loader):
        types: list[str] = []
        for size in sizes:
            new = [f"type_{number}" for number in range(len(types), size)]
            list(store.add_all([new_job(task_type) for task_type in new]))
            types += new
            name = f"{size:,} task types"
            both, compared[name] = comparison.beside(name, TimedStore(store, loader.any_id, types))
            figures[name] = both[name]
    return figures, compared


def bytes_of_genuine(count: int) -> float:
    """The memory of a job that went through all acts: to compare with the copies."""
    with EmbeddedRedis() as server, RedisJobStore(server.redis_url) as store:
        finish_one(store)
        before = used_memory(store)
        for _ in range(count):
            finish_one(store)
        return (used_memory(store) - before) / count


def main() -> None:
    """Measure and print."""
    options = options_parser(__doc__).parse_args()
    quick = options.quick
    records = [1, 100, 1_000, 10_000] if quick else [1, 100, 10_000, 100_000, 1_000_000]
    queued = [1, 100] if quick else [1, 100, 1_000, 10_000]
    task_types = [1, 50] if quick else [1, 10, 100, 1_000]
    watchers = [1, 20] if quick else [1, 10, 100, 500]
    figures: dict[str, Figures] = {}
    compared: dict[str, Figures] = {}
    with loaded_store() as (store, loader):
        comparison = Comparison(TimedStore(store, loader.any_id), 30 if quick else 200, 2 if quick else 5)
        record_figures, record_ratios, per_record = by_records(comparison, records)
        for size_figures, size_ratios in (
            (record_figures, record_ratios),
            by_queued(comparison, queued),
            by_task_types(comparison, task_types),
        ):
            figures |= size_figures
            compared |= size_ratios
            print_table("microseconds: median [range] of the rounds", size_figures)
            print_table(f"against {SMALL}, in turns", size_ratios)
        indexes = loader.indexes
    genuine = bytes_of_genuine(200 if quick else 2_000)
    print(
        f"\na finished job takes {per_record:.0f} bytes, {indexes} indexes in it; after all acts {genuine:.0f}"
    )
    watched = {f"{size:,} watchers": watching(size, 20 if quick else 90) for size in watchers}
    print_table("watchers of one process", watched)
    most = f"{records[-1]:,} records"
    targets = [
        Target(
            f"{act}, {kind}: {most} to {SMALL}", compared[most][f"{act}{suffix}"].median, 1.5, is_least=False
        )
        for act in FLAT
        for kind, suffix in (("client's time", "_us"), ("server's time", "_server_us"))
    ]
    result: dict[str, Any] = {
        "figures": as_json(figures),
        "ratios": as_json(compared),
        "watchers": as_json(watched),
        "bytes_per_finished_job": round(per_record),
        "bytes_per_job_after_all_acts": round(genuine),
    }
    print_end(result, targets, in_json=options.json)


if __name__ == "__main__":
    main()
