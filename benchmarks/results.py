"""The results of all benchmarks as tables in Markdown."""

from collections.abc import Iterable
from typing import Any

from benchmarks.reporting import Target

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
        # Those of benchmarks.uploads, which prints figures only.
        if name == "uploads":
            found += [{"benchmark": name, **target.as_json()} for target in _upload_targets(result)]
    return found


def _upload_targets(result: dict[str, Any]) -> list[Target]:
    """What issue 6 asks of uploads."""
    over_idle = result["ways"]["ours"]["memory_over_idle_mb"]
    rate = result["ours_to_0_2_0_1_mb_per_second"]
    return [
        Target("copies on disk", result["ours_copies_on_disk"], 1.05, is_least=False),
        Target("memory over the idle server, MB", over_idle, 10, is_least=False),
        Target("uploads of 1 MB a second, to the way of 0.2.0", rate, 1.7, is_least=True),
    ]


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
        elif name == "uploads":
            parts.append(
                f"Uploads, the first figures of one file of {result['large_mb']} MB:\n\n{_uploads(result)}"
            )
        elif name == "images":
            parts.append(f"Pictures, a JPEG of 12 megapixels, file to file:\n\n{_images(result)}")
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


def _uploads(result: dict[str, Any]) -> str:
    names = {
        "seconds": "seconds",
        "written_mb": "written, MB",
        "memory_over_idle_mb": "memory over idle, MB",
        "stall_ms": "longest stall, ms",
        "1_mb_per_second": "of 1 MB, a second",
        "5_mb_per_second": "of 5 MB, a second",
    }
    rows = ([way, *(f"{figures[name]:g}" for name in names)] for way, figures in result["ways"].items())
    return _table(["", *names.values()], rows)


def _images(result: dict[str, Any]) -> str:
    rows = (
        [
            work,
            way,
            f"{told['ms']:.0f} ({told['ms_range'][0]:.0f} to {told['ms_range'][1]:.0f})",
            f"{told['cpu_ms']:.0f}",
            f"{told['bytes']:,}",
        ]
        for work, ways in result["works"].items()
        for way, told in ways.items()
    )
    losses = ", ".join(f"{name} {value:g} dB" for name, value in result["psnr"].items())
    table = _table(["", "way", "ms", "CPU ms", "bytes"], rows)
    return f"{table}\n\nAgainst the exact outcome: {losses}. 0.2.0 is {result['old']}."


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
