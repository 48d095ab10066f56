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
    """What becomes of the picture; run in a process of its own, so that a crash is seen."""
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
    converted = told["convert"].get("output_path")
    if converted is not None:
        with contextlib.suppress(OSError, ValueError, SyntaxError):
            told["distance"] = distance_from_pillow(path, Path(converted))
    return told


def distance_from_pillow(path: Path, converted: Path) -> float:
    """How far the first frame is from what Pillow itself shows of it, turned as its EXIF says, in grey and small."""
    with Image.open(path) as file, Image.open(converted) as done:
        if file.mode in ("I", "F", "I;16", "I;16B", "LAB", "CMYK") or "icc_profile" in file.info:
            return 0.0
        old, new = (
            np.asarray(ImageOps.exif_transpose(each).convert("RGBA").resize((16, 16)).convert("RGBa"), float)
            for each in (file, done)
        )
    return float(np.abs(old - new).mean())


def test_each_is_processed_or_refused_and_none_lies_on_its_side(images: Path, tmp_path: Path) -> None:
    paths = sorted(path for path in images.rglob("*") if path.is_file())
    assert len(paths) > 500
    program = (
        "import json, sys, warnings; warnings.simplefilter('ignore'); sys.path[:0] = sys.argv[3:];"
        "from pathlib import Path; from test_pillow_images import outcome;"
        "print(json.dumps(outcome(Path(sys.argv[1]), Path(sys.argv[2]))))"
    )
    here = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    refused, wrong = {}, []
    for path in paths:
        command = [sys.executable, "-c", program, str(path), str(tmp_path), *here]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        name = str(path.relative_to(images))
        assert done.returncode == 0, f"{name}: {done.stderr[-2000:]}"
        told = json.loads(done.stdout)
        if "refused" in told["convert"]:
            refused[name] = told["convert"]["refused"]
        if told.get("distance", 0.0) > 6:
            wrong.append((name, told["distance"]))
    Path(os.environ.get("REFUSED_LIST", tmp_path / "refused.json")).write_text(json.dumps(refused, indent=1))
    assert wrong == []
    assert not [name for name in refused if "orientation" in name]


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
