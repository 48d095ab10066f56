"""Plots of the results, where matplotlib is installed."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.results import Results
from benchmarks.systems import OURS

# Not a dependency: loaded where it is installed, and not looked at by the type checker.
_matplotlib: Any = importlib.import_module("matplotlib")
_matplotlib.use("Agg")
_plt: Any = importlib.import_module("matplotlib.pyplot")

_OURS, _OTHERS = "#c2567a", "#8a94a8"
_PARTS = {"main_cpu_us": "#3d5a80", "children_cpu_us": "#98b4d4", "redis_cpu_us": "#e0b050"}
_WORDS = {"main_cpu_us": "main process", "children_cpu_us": "children", "redis_cpu_us": "Redis"}


def draw_all(results: Results, folder: Path) -> list[Path]:
    """Write a picture for each result that has one; their paths."""
    drawings: dict[str, Callable[[dict[str, Any]], Any]] = {
        "throughput": _throughput,
        "latency": _latency,
        "growth": _growth,
        "load": _load,
    }
    paths = []
    for name, draw in drawings.items():
        if name in results:
            figure = draw(results[name])
            figure.tight_layout()
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=80)
            _plt.close(figure)
            paths.append(path)
    return paths


def _throughput(result: dict[str, Any]) -> Any:
    figure, (rates, costs) = _plt.subplots(1, 2, figsize=(13, 4.5))
    ratios, figures = result["ratios"], result["figures"]
    names = list(ratios)[::-1]
    for offset, key, word in ((0.12, "drain_per_s", "drained"), (-0.12, "enqueue_per_s", "enqueued")):
        told = {name: ratios[name][key] for name in names if key in ratios[name]}
        places = [names.index(name) + offset for name in told]
        medians = [spread["median"] for spread in told.values()]
        low = [spread["median"] - spread["min"] for spread in told.values()]
        high = [spread["max"] - spread["median"] for spread in told.values()]
        rates.errorbar(medians, places, xerr=[low, high], fmt="o", capsize=3, label=word)
    rates.grid(axis="x", alpha=0.3)
    rates.axvline(1, color="black", linewidth=0.8)
    rates.set_xscale("log")
    rates.set_xticks([0.1, 0.2, 0.5, 1, 2, 5, 10], ["0.1", "0.2", "0.5", "1", "2", "5", "10"])
    rates.set_yticks(range(len(names)), names)
    rates.set_title("jobs a second, to plain Celery's (more is better)")
    rates.legend()
    names = [name for name in names if "main_cpu_us" in figures[name]]
    start = [0.0] * len(names)
    for key, colour in _PARTS.items():
        values = [figures[name][key]["median"] for name in names]
        costs.barh(range(len(names)), values, left=start, color=colour, label=_WORDS[key])
        start = [a + b for a, b in zip(start, values, strict=True)]
    # rq forks for each job: its bar would make the others short.
    limit = (sorted(start)[-2] if len(start) > 1 else start[0]) * 1.3
    costs.set_xlim(0, limit)
    for place, whole in enumerate(start):
        costs.text(min(whole + limit * 0.01, limit * 0.9), place, f"{whole:,.0f}", va="center")
    costs.set_yticks(range(len(names)), names)
    costs.set_title("processor time of a job to run it, us (less is better)")
    costs.legend(loc="center right")
    return figure


def _latency(result: dict[str, Any]) -> Any:
    figure, axes = _plt.subplots(figsize=(8, 4))
    figures = result["figures"]
    names = list(figures)[::-1]
    for place, name in enumerate(names):
        median, p95 = figures[name]["median_ms"]["median"], figures[name]["p95_ms"]["median"]
        colour = _OURS if name == OURS else _OTHERS
        axes.barh(place, p95, 0.6, color=colour, alpha=0.35)
        axes.barh(place, median, 0.6, color=colour)
        axes.text(p95 * 1.05, place, f"{median:.3g} / {p95:.3g}", va="center")
    axes.set_xscale("log")
    axes.set_xlim(1, 6000)
    axes.set_yticks(range(len(names)), names)
    axes.set_title("submission to start on an idle system, ms: median / 95 %")
    return figure


def _growth(result: dict[str, Any]) -> Any:
    figure, panels = _plt.subplots(1, 3, figsize=(13, 4))
    acts = ("get", "add", "claim", "finish", "peek", "recover")
    for axes, word in zip(panels, ("records", "queued", "task types"), strict=True):
        sizes = {
            int(name.split()[0].replace(",", "")): figures
            for name, figures in result["figures"].items()
            if name.endswith(word)
        }
        for act in acts:
            axes.plot(
                list(sizes), [sizes[size][f"{act}_us"]["median"] for size in sizes], marker="o", label=act
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(50, 20_000)
        axes.set_yticks([100, 1_000, 10_000], ["100", "1,000", "10,000"])
        axes.set_xlabel(word)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("client's median, us")
    panels[0].legend(loc="upper left", ncols=2)
    return figure


def _load(result: dict[str, Any]) -> Any:
    figure, axes = _plt.subplots(figsize=(8, 4))
    series = result["memory_over_time"]
    for part, values in series.items():
        if part != "seconds":
            axes.plot(series["seconds"], values, label=part.replace("_", " "))
    axes.set_ylim(0, axes.get_ylim()[1] * 1.15)  # room for the legend
    axes.set_xlabel("seconds")
    axes.set_title(f"memory, MB, under {result['clients']} clients ({result['jobs_per_s']:g} jobs a second)")
    axes.legend(loc="upper left", ncols=4)
    return figure
