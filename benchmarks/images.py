"""What pictures cost: our plugins beside the ones of 0.2.0 and libvips, file to file.

    python -m benchmarks.images [--quick] [--json] [--rounds N]

A JPEG of 12 megapixels, with the spectrum that photographs have, is resized to 1024 and 256 pixels and converted to
WebP and PNG. Each system has a process of its own, as a worker has, and they take turns, in each round in another
order: in one process, each would find memory as the one before has left it, which moves ours by a tenth. Ours is
`execute` of the plugin, with its checks and its report; 0.2.0 is its package from PyPI, or the same calls written out
where that cannot be had; libvips is there where pyvips is (pip install 'pyvips[binary]'). `psnr` is what is lost
against the exact way: all of the picture decoded and resampled by Lanczos's window, or the picture before it was WebP.

Where the time goes, of ours (12 megapixels to 1024): decoding at half the size 38 ms (libvips 47), resampling 29
(libvips 8, by vector instructions; Lanczos's window takes 43), encoding 3, all else 4. To 256: decoding 29 (an eighth).
WebP: decoding 72, encoding 570 (1160 by the effort that is Pillow's default). PNG: encoding 2000 (3650; 4400 with
`optimize`, as 0.2.0 has it).

The last line is JSON with all figures and the ratios that the targets of issue 8 name. (One file, a little long: each
benchmark is one.)
"""

import argparse
import asyncio
import importlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cl_ml_tools import Job
from cl_ml_tools.pictures import Scaling, open_picture, scaled_first
from cl_ml_tools.registry import load_tasks

try:
    import pyvips
except ImportError:
    pyvips = None

SIZE = (4000, 3000)
QUALITY = 85
WORKS: dict[str, dict[str, Any]] = {
    "1024 px": {"task": "image_resize", "width": 1024, "height": 768, "extension": "jpg"},
    "256 px": {"task": "image_resize", "width": 256, "height": 192, "extension": "jpg"},
    "webp": {"task": "image_conversion", "format": "webp", "quality": QUALITY, "extension": "webp"},
    "png": {"task": "image_conversion", "format": "png", "quality": QUALITY, "extension": "png"},
}
TARGETS = {
    # What is compared, by the name of the ratio: at most or at least so much.
    "1024 px, time of ours to libvips": ("at most", 1.1),
    "256 px, time of ours to libvips": ("at most", 1.1),
    "1024 px, times as fast as 0.2.0": ("at least", 2.3),
    "256 px, times as fast as 0.2.0": ("at least", 4.0),
    "webp, times as fast as 0.2.0": ("at least", 1.5),
    "png, times as fast as 0.2.0": ("at least", 1.5),
    "webp, size to 0.2.0": ("at most", 1.05),
    "png, size to 0.2.0": ("at most", 1.05),
}

Way = Callable[[Path, Path, dict[str, Any]], None]


def main() -> None:
    """Measure, print a table, and JSON as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--quick", action="store_true", help="three rounds")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--serve", nargs=3, metavar=("SYSTEM", "SOURCE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], Path(options.serve[1]), Path(options.serve[2]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "source.jpg"
        photograph(SIZE).save(source, quality=90)
        is_old_there = fetch_old(folder)
        servers = {
            name: Server(name, source, folder) for name in SYSTEMS if name == "ours" or pyvips or "0" in name
        }
        figures = measure(servers, folder, 3 if options.quick else options.rounds)
        result = {
            "old": "the package from PyPI" if is_old_there else "its calls written out: it cannot be had",
            "source_bytes": source.stat().st_size,
            "works": figures,
            "psnr": losses(source, folder),
            "ratios": ratios(figures),
        }
    if not options.json:
        print(table(result))
    print(json.dumps(result))


def photograph(size: tuple[int, int]) -> Image.Image:
    """A picture with the spectrum of a photograph, and with grain."""
    rng, (width, height) = np.random.default_rng(8), size
    frequencies = np.hypot(*np.meshgrid(np.fft.rfftfreq(width), np.fft.fftfreq(height)))
    frequencies[0, 0] = 1
    bands = []
    shared = rng.standard_normal((height, width))
    for _ in range(3):
        noise = shared + 0.4 * rng.standard_normal((height, width))
        band = np.fft.irfft2(np.fft.rfft2(noise) / frequencies**1.3, (height, width))
        grain = 1.5 * rng.standard_normal((height, width))
        bands.append(np.clip(120 + 55 * (band - band.mean()) / band.std() + grain, 0, 255).astype(np.uint8))
    return Image.fromarray(np.dstack(bands))


class Server:
    """A system in a process of its own: a work's name in, what it took out."""

    def __init__(self, name: str, source: Path, folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.images", "--serve", name, str(source), str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, work: str) -> tuple[float, float]:
        """Do it; returns seconds of wall clock and of processors."""
        assert self._process.stdin
        assert self._process.stdout
        print(work, file=self._process.stdin, flush=True)
        wall, cpu = json.loads(self._process.stdout.readline())
        return wall, cpu

    def close(self) -> None:
        self._process.communicate()


def serve(name: str, source: Path, folder: Path) -> None:
    """Do the works that are asked for on stdin."""
    way = SYSTEMS[name](folder)
    for line in sys.stdin:
        work = WORKS[line.strip()]
        before = time.perf_counter(), time.process_time()
        way(source, target_of(line.strip(), folder), work)
        print(json.dumps([time.perf_counter() - before[0], time.process_time() - before[1]]), flush=True)


def target_of(work: str, folder: Path) -> Path:
    return folder / f"target.{WORKS[work]['extension']}"


def task_way(tasks: dict[str, Any]) -> Way:
    """The plugin's `execute`."""

    def run(source: Path, target: Path, work: dict[str, Any]) -> None:
        task = tasks[work["task"]]
        asked = {key: value for key, value in work.items() if key not in ("task", "extension")}
        paths = {"input_paths": [str(source)], "output_paths": [str(target)]}
        params = task.get_schema()(**asked, **paths)
        result = asyncio.run(task.execute(Job(job_id="b", task_type=work["task"], params={}), params))
        if result["status"] != "ok":
            raise SystemExit(str(result))

    return run


def fetch_old(folder: Path) -> bool:
    """Unpack 0.2.0 into the folder; returns whether it can be had."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "-d",
        str(folder),
        "cl_ml_tools==0.2.0",
    ]
    if subprocess.run(command, capture_output=True).returncode:
        return False
    with zipfile.ZipFile(next(folder.glob("cl_ml_tools-0.2.0-*.whl"))) as wheel:
        wheel.extractall(folder / "old")
    return True


def old_way(folder: Path) -> Way:
    """The tasks of 0.2.0, in the place of ours."""
    if not (folder / "old").exists():
        return old_calls
    for name in [name for name in sys.modules if name.split(".")[0] == "cl_ml_tools"]:
        del sys.modules[name]
    sys.path.insert(0, str(folder / "old"))
    plugins = "cl_ml_tools.plugins"
    return task_way(
        {
            "image_resize": importlib.import_module(f"{plugins}.image_resize.task").ImageResizeTask(),
            "image_conversion": importlib.import_module(
                f"{plugins}.image_conversion.task"
            ).ImageConversionTask(),
        }
    )


def old_calls(source: Path, target: Path, work: dict[str, Any]) -> None:
    """What 0.2.0 asks Pillow for."""
    with Image.open(source) as image:
        if work["task"] == "image_resize":
            image.resize((work["width"], work["height"]), Image.Resampling.LANCZOS).save(target)
        elif work["format"] == "png":
            image.save(target, format="PNG", optimize=True)
        else:
            image.save(target, format="WEBP", quality=QUALITY)


def vips_way() -> Way:
    """As vipsthumbnail and `vips copy` do it."""
    pyvips.cache_set_max(0)  # it would remember the picture

    def run(source: Path, target: Path, work: dict[str, Any]) -> None:
        if work["task"] == "image_resize":
            image = pyvips.Image.thumbnail(str(source), work["width"], height=work["height"], size="force")
        else:
            image = pyvips.Image.new_from_file(str(source), access="sequential")
        quality = {} if work["extension"] == "png" else {"Q": QUALITY}
        image.write_to_file(str(target), **quality)

    return run


SYSTEMS: dict[str, Callable[[Path], Way]] = {
    "ours": lambda folder: task_way(load_tasks()),
    "0.2.0": old_way,
    "libvips": lambda folder: vips_way(),
}


def measure(servers: dict[str, Server], folder: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds of wall clock and of processors for each work and system, and the bytes that came out."""
    figures: dict[str, Any] = {}
    rng = random.Random(8)
    for work in WORKS:
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
        sizes = {}
        for name, server in servers.items():
            server.run(work)  # what is loaded at the first time is no cost of the next
            sizes[name] = target_of(work, folder).stat().st_size
        order = list(servers)
        for _ in range(rounds):
            rng.shuffle(order)
            for name in order:
                taken[name].append(servers[name].run(work))
        figures[work] = {name: summary(taken[name], sizes[name]) for name in servers}
    for server in servers.values():
        server.close()
    return figures


def summary(taken: list[tuple[float, float]], size: int) -> dict[str, Any]:
    wall, cpu = ([round(entry[part] * 1000, 1) for entry in taken] for part in (0, 1))
    return {
        "ms": statistics.median(wall),
        "ms_range": [min(wall), max(wall)],
        "cpu_ms": statistics.median(cpu),
        "bytes": size,
    }


def losses(source: Path, folder: Path) -> dict[str, float]:
    """Decibels between what comes out and the exact outcome; of what is resized, before it is written."""
    found = {}
    with Image.open(source) as image:
        whole = image.convert("RGB")
    for name in ("1024 px", "256 px"):
        size = WORKS[name]["width"], WORKS[name]["height"]
        exact = whole.resize(size, Image.Resampling.LANCZOS)
        with open_picture(source) as picture:
            found[f"{name}, ours"] = decibels(
                scaled_first(picture, Scaling(size), loses=True).upright(), exact
            )
        if pyvips:
            pixels = pyvips.Image.thumbnail(
                str(source), size[0], height=size[1], size="force"
            ).write_to_memory()
            found[f"{name}, libvips"] = decibels(Image.frombytes("RGB", size, pixels), exact)
    for system, way in (("ours", task_way(load_tasks())), ("0.2.0", old_calls)):
        way(source, folder / "lost.webp", WORKS["webp"])
        with Image.open(folder / "lost.webp") as image:
            found[f"webp, {system}"] = decibels(image, whole)
    return found


def decibels(one: Image.Image, other: Image.Image) -> float:
    off = np.asarray(one.convert("RGB"), float) - np.asarray(other, float)
    return round(float(10 * np.log10(255**2 / (off**2).mean())), 1)


def ratios(figures: dict[str, Any]) -> dict[str, Any]:
    """Each target's ratio, and whether it is met; nothing for what could not be measured."""
    told = {}
    for name, (bound, limit) in TARGETS.items():
        work, what = name.split(", ", 1)
        ours, old, theirs = (figures[work].get(way) for way in ("ours", "0.2.0", "libvips"))
        if "libvips" in what:
            if theirs is None:
                continue
            ratio = ours["ms"] / theirs["ms"]
        else:
            ratio = ours["bytes"] / old["bytes"] if "size" in what else old["ms"] / ours["ms"]
        met = ratio <= limit if bound == "at most" else ratio >= limit
        told[name] = {"ratio": round(ratio, 3), "target": f"{bound} {limit}", "met": met}
    return told


def table(result: dict[str, Any]) -> str:
    lines = [f"{'':8} {'way':20} {'ms (range)':>24} {'cpu ms':>8} {'bytes':>11}"]
    for name, ways in result["works"].items():
        for way, entry in ways.items():
            span = "{:.0f} ({:.0f} to {:.0f})".format(entry["ms"], *entry["ms_range"])
            lines.append(f"{name:8} {way:20} {span:>24} {entry['cpu_ms']:8.0f} {entry['bytes']:11,}")
    lines += [f"{name}: {value} dB" for name, value in result["psnr"].items()]
    for name, entry in result["ratios"].items():
        lines.append(f"{name}: {entry['ratio']} ({entry['target']}, {'met' if entry['met'] else 'MISSED'})")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
