"""Pillow's own test images, from its sdist on PyPI: no crash, no hang, none on its side. Run with -m long."""

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_jobs import run
from PIL import Image, ImageOps, __version__

from cl_ml_tools.errors import BadInputError
from cl_ml_tools.pictures import FORMATS
from cl_ml_tools.plugins.image_conversion.task import ImageConversionTask
from cl_ml_tools.plugins.image_metadata.task import ImageMetadataTask
from cl_ml_tools.plugins.image_resize.task import ImageResizeTask

DOCUMENT = Path(__file__).with_name("pillow-test-images.md")
OURS = {suffix for entry in FORMATS.values() for suffix in entry.extensions}

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the images; PILLOW_SDIST names an archive that is there already."""
    folder = tmp_path_factory.mktemp("pillow")
    archive = os.environ.get("PILLOW_SDIST")
    if archive is None:
        command = [
            "download",
            "-q",
            "--no-binary",
            ":all:",
            "--no-deps",
            "-d",
            str(folder),
            f"pillow=={__version__}",
        ]
        subprocess.run([sys.executable, "-m", "pip", *command], check=True)
        archive = str(next(folder.glob("*.tar.gz")))
    with tarfile.open(archive) as sdist:
        sdist.extractall(folder, filter="data")
    return next(folder.glob("*/Tests/images"))


def outcome(path: Path, out: Path) -> dict[str, Any]:
    """What becomes of the picture."""
    told: dict[str, Any] = {}
    works: dict[str, Any] = {
        "convert": lambda: run(ImageConversionTask(), path, out / "c.png", format="png"),
        "resize": lambda: run(ImageResizeTask(), path, out / "r.png", width=32),
        "describe": lambda: run(ImageMetadataTask(), path, []),
    }
    for name, work in works.items():
        try:
            told[name] = work()["files"][0]
        except BadInputError as error:
            told[name] = {"refused": str(error)}
    for name in ("convert", "resize"):
        if "output_path" in told[name]:
            with contextlib.suppress(OSError, ValueError, SyntaxError):
                told[f"{name} distance"] = distance_from_pillow(path, Path(told[name]["output_path"]))
    return told


def outcome_in_a_child(path: Path, out: Path) -> dict[str, Any]:
    """The same, so that a crash or a hang of a decoder is seen."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
        try:
            os.write(writing, json.dumps(outcome(path, out)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer) if answer else {}


def distance_from_pillow(path: Path, made: Path) -> float:
    """How far the first frame is from what Pillow itself shows of it, turned as its EXIF says, in 256ths."""
    with Image.open(path) as file, Image.open(made) as done:
        if file.info.get("default_image") and getattr(file, "n_frames", 1) > 2:
            file.seek(1)  # the first frame of the animation that the other picture is shown for
        elif file.mode in ("I", "F", "I;16", "I;16B", "LAB", "CMYK") or "icc_profile" in file.info:
            return 0.0
        new = ImageOps.exif_transpose(done).convert("RGBA").convert("RGBa")
        old = ImageOps.exif_transpose(file).convert("RGBA").convert("RGBa")
        if file.format == "TIFF" and done.format == "PNG" and old.size != new.size:
            return 0.0  # pages of several sizes, made frames of one
        # Small, so that what counts is where things are and not what a lossy format makes of them.
        size = min(16, new.width), min(16, new.height)
        small = [np.asarray(each.resize(size, Image.Resampling.LANCZOS), float) for each in (old, new)]
    return float(np.abs(small[0] - small[1]).mean())


def reason(message: str, name: str) -> str:
    """A refusal's text without what is of one file only."""
    return re.sub(r"\d{3,}", "n", message.replace(name, "It")).split(". ")[0]


def document(total: int, refused: dict[str, str]) -> str:
    """What is refused, as a table: by reason, and by name where the extension promises a format of ours."""
    reasons: dict[str, list[str]] = {}
    for name, text in refused.items():
        reasons.setdefault(text, []).append(name)
    lines = [
        "# Pillow's test images",
        "",
        "Made by `tests/pictures/test_pillow_images.py` (`WRITE_TABLES=1 python -m pytest -m long`).",
        "",
        f"Of the {total} files among the test images of Pillow {__version__}, {total - len(refused)} are converted, "
        "resized and described, upright and looking as Pillow itself shows them.",
        f"The other {len(refused)} are refused: formats that are not opened, and files made to be damaged.",
        "",
        "| files | why | those named like a format that is opened |",
        "|---|---|---|",
    ]
    for text, names in sorted(reasons.items(), key=lambda entry: (-len(entry[1]), entry[0])):
        ours = [f"`{name}`" for name in names if Path(name).suffix.lower() in OURS]
        lines.append(f"| {len(names)} | {text.replace('|', '/')} | {', '.join(ours)} |")
    return "\n".join(lines) + "\n"


def test_each_is_processed_or_refused_and_none_lies_on_its_side(images: Path, tmp_path: Path) -> None:
    paths = sorted(path for path in images.rglob("*") if path.is_file())
    assert len(paths) > 500
    refused: dict[str, str] = {}
    dead, wrong = [], []
    for path in paths:
        name = str(path.relative_to(images))
        told = outcome_in_a_child(path, tmp_path)
        if not told:
            dead.append(name)
            continue
        if "refused" in told["convert"]:
            refused[name] = reason(told["convert"]["refused"], path.name)
        for work in ("convert", "resize"):
            if told.get(f"{work} distance", 0.0) > 10:
                wrong.append((name, work, told[f"{work} distance"]))
    assert dead == []
    assert wrong == []
    assert not [name for name in refused if "orientation" in name]
    made = document(len(paths), refused)
    if os.environ.get("WRITE_TABLES"):
        DOCUMENT.write_text(made)
    if f"Pillow {__version__}," in DOCUMENT.read_text():
        assert DOCUMENT.read_text() == made


def test_pictures_that_differ_in_their_orientation_only_come_out_alike(images: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for pattern in ("hopper_orientation_*.jpg", "hopper_orientation_*.webp", "g4_orientation_*.tif"):
            shown = []
            for path in sorted(images.glob(pattern)):
                report = run(ImageConversionTask(), path, tmp_path / f"{path.name}.png", format="png")[
                    "files"
                ][0]
                with Image.open(report["output_path"]) as done:
                    shown.append(np.asarray(done.convert("L"), float))
            assert len(shown) >= 7
            assert max(float(np.abs(other - shown[0]).mean()) for other in shown) < 6
