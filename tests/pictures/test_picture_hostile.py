"""What is sent to break something is refused, soon and in little memory."""

import json
import os
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from hostile_pictures import HOSTILE, chunk, encoded, gif, png
from picture_jobs import run
from PIL import Image

from cl_ml_tools import ComputeModule
from cl_ml_tools.errors import BadInputError
from cl_ml_tools.pictures import open_picture
from cl_ml_tools.plugins.image_conversion.task import ImageConversionTask
from cl_ml_tools.plugins.image_hash.task import ImageHashTask
from cl_ml_tools.plugins.image_metadata.task import ImageMetadataTask
from cl_ml_tools.plugins.image_resize.task import ImageResizeTask
from cl_ml_tools.plugins.image_thumbnail.task import ImageThumbnailTask

TASKS: dict[str, tuple[ComputeModule[Any], dict[str, Any]]] = {
    "resize": (ImageResizeTask(), {"width": 5, "height": 5}),
    "convert": (ImageConversionTask(), {"format": "png"}),
    "thumbnail": (ImageThumbnailTask(), {}),
    "metadata": (ImageMetadataTask(), {}),
    "hash": (ImageHashTask(), {}),
}

# Each file in a child of its own, so that the peak of memory is this file's.
MEASURE = """
import asyncio, json, os, resource, sys, time
from pathlib import Path
from cl_ml_tools import Job
from cl_ml_tools.errors import BadInputError
from cl_ml_tools.plugins.image_conversion.task import ImageConversionTask

def refuse(path):
    task = ImageConversionTask()
    asked = {"format": "png", "input_paths": [str(path)], "output_paths": [str(path) + ".out.png"]}
    params = task.get_schema().model_validate(asked)
    usage = lambda: resource.getrusage(resource.RUSAGE_SELF)
    before = usage()
    try:
        asyncio.run(task.execute(Job(job_id="j", task_type="image_conversion", params={}), params))
        outcome = "accepted"
    except BadInputError as error:
        outcome = str(error)
    after = usage()
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"outcome": outcome, "seconds": seconds, "megabytes": (after.ru_maxrss - before.ru_maxrss) / 1024}

# What asks for more than there can be is not refused but fails.
resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000,) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    reading, writing = os.pipe()
    if not os.fork():
        # One that is not refused shall not hide what becomes of the others.
        resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
        os.write(writing, json.dumps({path.name: refuse(path)}).encode())
        os._exit(0)
    os.close(writing)
    os.wait()
    print(os.read(reading, 100000).decode() or "{}", flush=True)
    os.close(reading)
"""


def exif_of_numbers(kind: int) -> bytes:
    """EXIF data whose exposure time is four megabytes."""
    count = 4_000_000 // (8 if kind == 5 else 1)
    main = b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHIII", 0x8769, 4, 1, 26, 0)
    return main + struct.pack("<H", 1) + struct.pack("<HHIII", 0x829A, kind, count, 44, 0) + bytes(4_000_000)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("hostile")
    for number, make in enumerate(HOSTILE.values()):
        (folder / f"{number}.png").write_bytes(make())
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    found: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        found |= json.loads(line)
    return {name: found.get(f"{number}.png", {}) for number, name in enumerate(HOSTILE)}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_within_a_second_and_200_megabytes(
    name: str, measured: dict[str, dict[str, Any]]
) -> None:
    result = measured[name]
    assert result, "its process died"
    assert result["outcome"] != "accepted"
    assert result["outcome"].split(".png ")[0].isdigit(), "it names the file"
    assert result["seconds"] < 1
    assert result["megabytes"] < 200


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "name", ["empty", "eps", "cut png", "cut jpeg", "gif, 5000 frames of 1 x 1", "png of 400000 chunks"]
)
def test_every_task_opens_pictures_in_the_one_safe_way(name: str, task: str, tmp_path: Path) -> None:
    (tmp_path / "holiday.png").write_bytes(HOSTILE[name]())
    module, asked = TASKS[task]
    with pytest.raises(BadInputError, match=r"^holiday\.png ") as caught:
        run(module, tmp_path / "holiday.png", tmp_path / "out.png", **asked)
    assert str(tmp_path) not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.png"]


def test_what_lies_behind_a_picture_does_not_come_out_again(tmp_path: Path) -> None:
    secret = b"PK\x03\x04 #!/bin/sh <script>alert(1)</script>"
    for extension in ("PNG", "JPEG", "GIF", "WEBP"):
        (tmp_path / "two-things").write_bytes(encoded(extension) + secret)
        run(ImageResizeTask(), tmp_path / "two-things", tmp_path / f"out.{extension.lower()}", width=9)
    (tmp_path / "two-things").write_bytes(png(9, 9, chunk(b"tEXt", b"a\0" + secret), pixels=bytes(90)))
    run(ImageConversionTask(), tmp_path / "two-things", tmp_path / "out.bmp", format="bmp")
    outputs = [path for path in tmp_path.iterdir() if path.name.startswith("out")]
    assert len(outputs) == 5
    assert not [path for path in outputs if b"script" in path.read_bytes()]


def test_the_limits_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    (tmp_path / "a.gif").write_bytes(gif(4, 4, 12))
    with open_picture(tmp_path / "a.png") as picture:
        assert picture.size == (64, 64)
    monkeypatch.setenv("CL_ML_TOOLS_MAX_PICTURE_PIXELS", "4095")
    with (
        pytest.raises(BadInputError, match=r"a\.png has 64 x 64 pixels; the limit is 4095 in all"),
        open_picture(tmp_path / "a.png"),
    ):
        pass
    monkeypatch.setenv("CL_ML_TOOLS_MAX_PICTURE_FRAMES", "11")
    with (
        pytest.raises(BadInputError, match=r"a\.gif has more than 11 frames or pages"),
        open_picture(tmp_path / "a.gif"),
    ):
        pass


def test_a_limit_that_was_raised_above_pillows_own_is_the_one_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setenv("CL_ML_TOOLS_MAX_PICTURE_PIXELS", "4096")
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(ImageConversionTask(), tmp_path / "a.png", tmp_path / "out.png", format="png")


@pytest.mark.parametrize(
    "exif",
    [
        exif_of_numbers(7),
        exif_of_numbers(5),
        b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHIII", 0x8769, 4, 1, 8, 8),
    ],
    ids=["megabytes", "fractions", "in a circle"],
)
def test_exif_data_that_is_a_bomb_is_told_and_costs_little(exif: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(9, 9, chunk(b"eXIf", exif), pixels=bytes(90)))
    before = time.process_time()
    output = run(ImageMetadataTask(), tmp_path / "a.png", [], gps=True)
    assert time.process_time() - before < 1
    assert len(json.dumps(output)) < 2000


def test_metadata_of_thousands_of_tags_is_cut(tmp_path: Path) -> None:
    tags = b"".join(struct.pack("<HHII", 0x9A00 + number, 2, 4, 0x41414141) for number in range(4000))
    exif = b"II*\0" + struct.pack("<IH", 8, 4000) + tags + bytes(4)
    (tmp_path / "a.png").write_bytes(png(9, 9, chunk(b"eXIf", exif), pixels=bytes(90)))
    (report,) = run(ImageMetadataTask(), tmp_path / "a.png", [])["files"]
    assert len(report["exif"]) == 500


def test_an_address_space_that_is_bounded_ends_in_an_error_and_not_in_a_death(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png(7000, 7000, pixels=bytes(7001 * 7000)))
    program = """
import resource, sys
from pathlib import Path
from cl_ml_tools.pictures import open_picture
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 20_000_000,) * 2)
try:
    with open_picture(Path(sys.argv[1])) as picture:
        picture.first()
except MemoryError:
    print("out of memory, alive")
"""
    command = [sys.executable, "-c", program, str(tmp_path / "large.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ})
    assert done.stdout == "out of memory, alive\n", done.stderr


def test_a_time_limit_that_strikes_while_decoding_is_not_taken_for_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import PngImagePlugin

    class SoftTimeLimitError(Exception):
        pass

    def strike(self: Any) -> Any:
        raise SoftTimeLimitError

    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", strike)
    with pytest.raises(SoftTimeLimitError):
        run(ImageConversionTask(), tmp_path / "a.png", tmp_path / "out.png", format="png")
