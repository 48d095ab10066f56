"""The benchmarks run: how they measure is for people to judge, that they still can is looked at here."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks"
PROGRAMS = ("throughput", "latency", "growth", "load", "uploads", "images")
"""Those of speed."""
PROOFS = ("chaos", "mutations")
"""Those that look for faults: they have options of their own."""
SMALLEST = {
    "throughput": ["--only-celery"],
    "latency": ["--only-celery"],
    "load": ["--seconds", "10", "--clients", "4"],
}
# What benchmarks.images and benchmarks.uploads say, cut down.
IMAGES = {
    "old": "its calls",
    "works": {"png": {"ours": {"ms": 21.4, "ms_range": [20, 30.2], "cpu_ms": 20.9, "bytes": 1234}}},
    "psnr": {"webp, ours": 41.5},
    "ratios": {"png, times as fast as 0.2.0": {"ratio": 2.08, "target": "at least 1.5", "met": True}},
}
UPLOADS = {
    "large_mb": 50,
    "ways": {
        "ours": {
            "seconds": 0.5,
            "written_mb": 50.1,
            "memory_over_idle_mb": 4.1,
            "stall_ms": 4.0,
            "1_mb_per_second": 90.0,
            "5_mb_per_second": 40.0,
        }
    },
    "ours_copies_on_disk": 1.002,
    "ours_to_0_2_0_1_mb_per_second": 1.07,
}
MARKDOWN = (
    "import json, sys; from benchmarks.results import as_markdown; print(as_markdown(json.load(sys.stdin)))"
)


def run(*arguments: str, seconds: float = 60, given: str = "") -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, input=given, capture_output=True, text=True, timeout=seconds
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def last_line(told: str) -> dict[str, Any]:
    return dict(json.loads(told.strip().split("\n")[-1]))


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


@pytest.mark.parametrize("module", ["benchmarks", *(f"benchmarks.{program}" for program in PROGRAMS)])
def test_every_benchmark_has_the_common_options(module: str) -> None:
    told = run("-m", module, "--help")
    assert "--json" in told
    assert "--quick" in told


@pytest.mark.parametrize("program", [*PROGRAMS, *PROOFS])
def test_every_program_says_what_it_shows_and_how_it_is_run(program: str) -> None:
    path = FOLDER / f"{program}.py"
    told = docstring(path if path.exists() else FOLDER / program / "__main__.py")
    assert len(told.split()) >= 6
    assert f"python -m benchmarks.{program}" in told
    assert f"python -m benchmarks.{program}" in (FOLDER / "README.md").read_text()


def test_no_program_is_forgotten_here() -> None:
    programs = {path.stem for path in FOLDER.glob("*.py") if 'if __name__ == "__main__"' in path.read_text()}
    programs |= {path.parent.name for path in FOLDER.glob("*/__main__.py")}
    assert programs == {*PROGRAMS, *PROOFS, "__main__"}


def test_the_tables_have_the_figures_and_say_what_is_missed() -> None:
    growth: dict[str, Any] = {
        "targets": [{"name": "get", "value": 1.7, "asked": "<= 1.5", "met": False}],
        "figures": {},
        "watchers": {"1 watchers": {"report_us": {"median": 450.0}}},
        "bytes_per_finished_job": 2011,
    }
    told = run("-c", MARKDOWN, given=json.dumps({"growth": growth, "uploads": UPLOADS, "images": IMAGES}))
    for line in (
        "| growth: get | <= 1.5 | 1.7 | **missed** |",
        "| uploads: copies on disk | <= 1.05 | 1.002 | met |",
        "| uploads: uploads of 1 MB a second, to the way of 0.2.0 | >= 1.7 | 1.07 | **missed** |",
        "| images: png, times as fast as 0.2.0 | at least 1.5 | 2.08 | met |",
        "| ours | 0.5 | 50.1 | 4.1 | 4 | 90 | 40 |",
        "| png | ours | 21 (20 to 30) | 21 | 1,234 |",
        "| 1 watchers | 450 |",
    ):
        assert line in told.split("\n")
    assert "A finished job takes 2011 bytes of Redis." in told


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_benchmark_runs_and_ends_with_its_figures(program: str) -> None:
    options = ["--quick", "--json", *SMALLEST.get(program, [])]
    result = last_line(run("-m", f"benchmarks.{program}", *options, seconds=360))
    for target in result.get("targets", []):
        assert target.keys() == {"name", "value", "asked", "met"}
    if program == "throughput":
        ours = result["figures"]["cl_ml_tools"]
        assert ours["enqueue_round_trips"]["median"] == pytest.approx(2, abs=0.1)
        assert ours["drain_per_s"]["min"] > 0
    if program == "load":
        assert result["errors"] == 0, result["first_errors"]


@pytest.mark.long
@pytest.mark.timeout(400)
def test_one_command_runs_them_and_writes_tables(tmp_path: Path) -> None:
    options = ["--quick", "--json", "--only", "growth,uploads", "--folder", str(tmp_path)]
    result = last_line(run("-m", "benchmarks", *options, seconds=360))
    assert set(result["results"]) == {"growth", "uploads"}
    assert "| target | asked | measured |" in (tmp_path / "results.md").read_text()
    assert json.loads((tmp_path / "results.json").read_text()) == result["results"]
