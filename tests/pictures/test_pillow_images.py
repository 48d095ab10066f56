"""Pillow's own test images, from its sdist on PyPI: no crash, no hang, none on its side. Run with -m long."""

import contextlib
import json
import os
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
from cl_ml_tools.plugins.image_conversion.task import ImageConversionTask
from cl_ml_tools.plugins.image_metadata.task import ImageMetadataTask
from cl_ml_tools.plugins.image_resize.task import ImageResizeTask

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
    with open(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer) if answer else {}


def distance_from_pillow(path: Path, made: Path) -> float:
    """How far the first frame is from what Pillow itself shows of it, turned as its EXIF says, small, in 256ths."""
    with Image.open(path) as file, Image.open(made) as done:
        if file.mode in ("I", "F", "I;16", "I;16B", "LAB", "CMYK") or "icc_profile" in file.info:
            return 0.0
        old, new = (
            np.asarray(ImageOps.exif_transpose(each).convert("RGBA").resize((16, 16)).convert("RGBa"), float)
            for each in (file, done)
        )
    return float(np.abs(old - new).mean())


def reason(message: str, name: str) -> str:
    """A refusal's text without what is of one file only."""
    return re.sub(r"\d{3,}", "n", message.replace(name, "it")).split(". ")[0]


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
            if told.get(f"{work} distance", 0.0) > 6:
                wrong.append((name, work, told[f"{work} distance"]))
    if os.environ.get("WRITE_TABLES"):
        write_list(refused, len(paths))
    assert dead == []
    assert wrong == []
    assert not [name for name in refused if "orientation" in name]
    opened = [
        name
        for name in refused
        if Path(name).suffix.lower() in OURS and not refused[name].startswith("it is no")
    ]
    assert set(opened) <= DAMAGED_OR_HUGE


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
