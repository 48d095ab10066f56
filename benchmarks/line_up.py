"""The systems that are measured side by side."""

import importlib.util
import subprocess
from pathlib import Path

from benchmarks.old_release import release_0_2_0
from benchmarks.systems import OURS, PLAIN, STORING, System
from cl_ml_tools.broker_urls import broker_url_for


def celery_systems(redis_url: str, *, events: bool = True) -> list[System]:
    """Plain Celery, Celery that does the same as ours, and ours."""
    celery = {
        "BENCHMARK_BROKER_URL": broker_url_for(redis_url),
        "BENCHMARK_RESULT_URL": redis_url.replace("unix://", "redis+socket://").split("?")[0],
        "BENCHMARK_EVENTS": str(int(events)),
    }
    quiet = "--without-mingle --without-gossip -l ERROR"
    plain = f"celery -A benchmarks.programs.plain_celery worker -c {{n}} {quiet}"
    app = "cl_ml_tools" if events else "benchmarks.programs.ours"
    ours = {"CL_ML_TOOLS_REDIS_URL": redis_url, "BENCHMARK_EVENTS": str(int(events))}
    return [
        System(
            PLAIN, "plain_celery", plain, {**celery, "BENCHMARK_STORES": "0"}, _levels("celery"), ("unacked",)
        ),
        System(
            STORING,
            "plain_celery",
            plain,
            {**celery, "BENCHMARK_STORES": "1"},
            _levels("celery"),
            ("unacked",),
        ),
        System(
            OURS,
            "ours",
            f"celery -A {app} worker -c {{n}} {quiet}",
            ours,
            _levels("cl_ml_tools.noop"),
            ("unacked",),
            adds_many=True,
        ),
    ]


def _levels(queue: str) -> tuple[str, ...]:
    """The lists of kombu's ten priorities."""
    return (queue, *(f"{queue}\x06\x16{step}" for step in range(1, 10)))


def other_engines(redis_url: str) -> tuple[list[System], list[str]]:
    """Those that are installed, and a line for each that is not.

    As many processes as Celery has; in each as many jobs at once as they have by themselves.
    """
    url = {"BENCHMARK_REDIS_URL": redis_url}
    engines = {
        "taskiq_redis": System(
            "taskiq",
            "taskiq_app",
            "taskiq worker benchmarks.programs.taskiq_app:broker -w {n} --log-level ERROR",
            url,
            stream="taskiq",
        ),
        "dramatiq": System(
            "dramatiq",
            "dramatiq_app",
            "dramatiq benchmarks.programs.dramatiq_app -p {n}",
            url,
            hashes=("dramatiq:default.msgs",),
        ),
        "rq": System(
            "rq",
            "rq_app",
            f"rq.cli worker-pool -n {{n}} -q -u {redis_url}",
            url,
            ("rq:queue:default",),
            zsets=("rq:wip:default",),
            most=300,
        ),
    }
    missing = [name for name in engines if importlib.util.find_spec(name) is None]
    lines = [f"{name} is not installed: left out (pip install 'cl_ml_tools[bench]')" for name in missing]
    return [system for name, system in engines.items() if name not in missing], lines


def chosen_systems(redis_url: str, folder: Path, *, events: bool, only_celery: bool) -> list[System]:
    """Those that can be run here; says which cannot."""
    systems = celery_systems(redis_url, events=events)
    if only_celery:
        return systems
    try:
        systems.append(release_0_2_0(folder))
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"0.2.0 cannot be installed: left out ({type(error).__name__})")
    engines, missing = other_engines(redis_url)
    for line in missing:
        print(line)
    return [*systems, *engines]
