"""The results of all benchmarks as tables in Markdown."""

from collections.abc import Iterable
from typing import Any

Results = dict[str, dict[str, Any]]

_THROUGHPUT = {
    "enqueue_per_s": "enqueued/s",
    "drain_per_s": "drained/s",
    "main_cpu_us": "CPU us, main process",
    "children_cpu_us": "CPU us, children",
    "redis_cpu_us": "CPU us, Redis",
    "worker_memory_mb": "worker, MB",
    "enqueue_commands": "commands, enqueue",
    "run_commands": "commands, run",
    "enqueue_round_trips": "round trips, enqueue",
    "run_round_trips": "round trips, run",
}
_LATENCY = {"median_ms": "median, ms", "p95_ms": "95 %, ms"}
_GROWTH = {f"{act}_us": f"{act}, us" for act in ("get", "add", "claim", "finish", "list", "peek", "recover")}
_RATIOS = {"enqueue_per_s": "enqueued/s, ratio", "drain_per_s": "drained/s, ratio", "median_ms": "ratio"}


def targets_of(results: Results) -> list[dict[str, Any]]:
    """All targets, with the benchmark that each is of."""
    found = []
    for name, result in results.items():
        found += [{"benchmark": name, **target} for target in result.get("targets", [])]
        # As benchmarks.images says it.
        for what, ratio in result.get("ratios", {}).items():
            if "met" in ratio:
                told = {"name": what, "value": ratio["ratio"], "asked": ratio["target"], "met": ratio["met"]}
                found.append({"benchmark": name, **told})
    return found


def as_markdown(results: Results) -> str:
    """Tables of the targets and of each benchmark."""
    parts = [
        _table(
            ["target", "asked", "measured", ""],
            (
                [
                    f"{target['benchmark']}: {target['name']}",
                    target["asked"],
                    f"{target['value']:g}",
                    "met" if target["met"] else "**missed**",
                ]
                for target in targets_of(results)
            ),
        )
    ]
    for name, result in results.items():
        if name.startswith("throughput"):
            parts.append(f"{name.capitalize()}:\n\n{_systems(result, _THROUGHPUT)}")
        elif name == "latency":
            parts.append(f"Submission to start:\n\n{_systems(result, _LATENCY)}")
        elif name == "growth":
            parts.append(f"Growth, client's medians:\n\n{_systems(result, _GROWTH)}")
            parts.append(f"Watchers:\n\n{_systems({'figures': result['watchers']}, None)}")
            parts.append(f"A finished job takes {result['bytes_per_finished_job']} bytes of Redis.")
        elif name == "load":
            parts.append(_load(result))
    return "\n\n".join(parts) + "\n"


def _systems(result: dict[str, Any], columns: dict[str, str] | None) -> str:
    """A line for each system: medians, and the range of the ratio."""
    figures, ratios = result["figures"], result.get("ratios", {})
    if columns is None:
        columns = {key: key for key in next(iter(figures.values()))}
    compared = [key for key in columns if key in _RATIOS and ratios]
    heads = ["", *columns.values(), *(_RATIOS[key] for key in compared)]
    rows = []
    for name, row in figures.items():
        cells = [_number(row.get(key)) for key in columns]
        rows.append([name, *cells, *(_range(ratios.get(name, {}).get(key)) for key in compared)])
    return _table(heads, rows)


def _load(result: dict[str, Any]) -> str:
    upload, whole, memory = result["upload"], result["upload_to_end"], result["memory"]
    grown = ", ".join(
        f"{part.replace('_', ' ')} {told['mb']:g} MB ({told['percent_in_second_half']:+g} %)"
        for part, told in memory.items()
    )
    return (
        f"Load: {result['clients']} clients for {result['seconds']:g} s: {result['jobs']} jobs, "
        f"{result['jobs_per_s']:g} a second; {result['errors']} errors. The upload route takes "
        f"{upload['median_ms']:g} ms (median), {upload['p99_ms']:g} ms (99 %); a job to its end "
        f"{whole['median_ms']:g} and {whole['p99_ms']:g} ms. Memory (growth in the second half): {grown}."
    )


def _number(spread: dict[str, float] | None) -> str:
    if spread is None:
        return "-"
    value = spread["median"]
    return f"{value:,.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"


def _range(spread: dict[str, float] | None) -> str:
    if spread is None:
        return "-"
    if spread["min"] == spread["max"]:
        return f"{spread['median']:.2f}"
    return f"{spread['median']:.2f} ({spread['min']:.2f} to {spread['max']:.2f})"


def _table(heads: list[str], rows: Iterable[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
