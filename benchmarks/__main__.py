"""All benchmarks, one after the other: tables and plots of what they show.

    python -m benchmarks [--quick] [--json] [--folder DIR] [--only NAME,NAME]

Takes about half an hour, some minutes with --quick. The folder gets what each has printed, results.json, results.md,
and where matplotlib is installed plots.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.reporting import options_parser
from benchmarks.results import as_markdown, targets_of
from benchmarks.systems import ROOT

PROGRAMS: dict[str, list[str]] = {
    "throughput": ["throughput"],
    "throughput without events": ["throughput", "--no-events", "--only-celery"],
    "latency": ["latency"],
    "growth": ["growth"],
    "uploads": ["uploads"],
    "images": ["images"],
    "load": ["load"],
}


def run(name: str, options: list[str], folder: Path) -> dict[str, Any] | None:
    """What a benchmark's last line holds; None when it is not there or has failed, which is said."""
    program, *own = PROGRAMS[name]
    if importlib.util.find_spec(f"benchmarks.{program}") is None:
        print(f"{name}: not there")
        return None
    command = [sys.executable, "-m", f"benchmarks.{program}", "--json", *own, *options]
    print(f"\n===== {name}", flush=True)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    (folder / f"{name.replace(' ', '-')}.txt").write_text(done.stdout)
    if done.returncode != 0:
        print(f"{name}: failed, code {done.returncode}")
        return None
    *told, last = done.stdout.strip().split("\n")
    print("\n".join(told), flush=True)
    return dict(json.loads(last))


def main() -> None:
    """Run them, and write what they show."""
    parser = options_parser(__doc__)
    parser.add_argument("--folder", type=Path, help="where results go; a new temporary one unless given")
    parser.add_argument("--only", default=",".join(PROGRAMS), help="names, with commas between")
    options = parser.parse_args()
    names = [name for name in options.only.split(",") if name]
    if unknown := [name for name in names if name not in PROGRAMS]:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are: {', '.join(PROGRAMS)}")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="benchmarks-"))
    folder.mkdir(parents=True, exist_ok=True)
    told = {name: run(name, ["--quick"] if options.quick else [], folder) for name in names}
    results = {name: result for name, result in told.items() if result is not None}
    (folder / "results.json").write_text(json.dumps(results))
    markdown = as_markdown(results)
    (folder / "results.md").write_text(markdown)
    print(f"\n{markdown}")
    if importlib.util.find_spec("matplotlib") is None:
        print("matplotlib is not installed: no plots (pip install 'cl_ml_tools[bench]')")
    else:
        from benchmarks.plots import draw_all

        print("plots:", ", ".join(path.name for path in draw_all(results, folder)))
    print(f"all of it is in {folder}")
    if options.json:
        print(json.dumps({"results": results, "targets": targets_of(results)}))
    if len(results) < len(
        [name for name in names if importlib.util.find_spec(f"benchmarks.{PROGRAMS[name][0]}")]
    ):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
