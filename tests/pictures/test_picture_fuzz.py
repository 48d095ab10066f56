"""Bytes that nobody has thought of: whatever is sent, only typed errors come back."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
import warnings
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from picture_jobs import run
from picture_kinds import KINDS

from cl_ml_tools.errors import BadInputError
from cl_ml_tools.pictures import open_picture
from cl_ml_tools.plugins.image_conversion.task import ImageConversionTask
from cl_ml_tools.plugins.image_metadata.task import ImageMetadataTask
from cl_ml_tools.plugins.image_resize.task import ImageResizeTask


def seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for kind in KINDS.values():
            kind.write(Path(folder) / f"seed{kind.extension}")
            files.append((Path(folder) / f"seed{kind.extension}").read_bytes())
        return files


SEEDS = seeds()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A picture of some kind with bytes changed, cut out, doubled or put in, most often near its beginning."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        reach = draw(st.sampled_from([40, 200, len(data)]))
        at = draw(st.integers(0, max(0, min(reach, len(data)) - 1)))
        match draw(st.sampled_from(["set", "set", "extreme", "cut", "double", "insert"])):
            case "set":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "extreme":
                data[at : at + 4] = draw(
                    st.sampled_from([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\0\0\xff\xff"])
                )
            case "cut":
                del data[at : at + draw(st.integers(1, 64))]
            case "double":
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
            case _:
                data[at:at] = draw(st.binary(max_size=16))
    return bytes(data)


def process(content: bytes) -> None:
    """Resize, convert and describe it; BadInputError is an answer, anything else is not."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = Path(folder) / "sent"
        source.write_bytes(content)
        for work in (
            lambda: run(
                ImageResizeTask(), source, Path(folder) / "resized.png", width=20, height=20, mode="fill"
            ),
            lambda: run(ImageConversionTask(), source, Path(folder) / "converted.jpg", format="jpg"),
            lambda: run(ImageConversionTask(), source, Path(folder) / "converted.gif", format="gif"),
            lambda: run(ImageMetadataTask(), source, [], gps=True),
        ):
            with contextlib.suppress(BadInputError):
                for path in work()["processed_files"]:  # type: ignore[no-untyped-call]  # a lambda
                    with open_picture(Path(path)) as picture:
                        picture.first()


QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@QUICK
@given(damaged())
def test_damaged_pictures_give_typed_errors_or_pictures(content: bytes) -> None:
    process(content)


@QUICK
@given(
    st.sampled_from(
        [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"BM", b"P6 ", b"RIFF"]
    ),
    st.binary(),
)
def test_bytes_without_a_sense_give_typed_errors(magic: bytes, content: bytes) -> None:
    process(magic + content)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_ten_minutes_of_damage_give_typed_errors_or_pictures(tmp_path: Path) -> None:
    # A process of its own, so that a crash of a decoder is a finding too; and faster than Hypothesis is.
    program = Path(__file__).with_name("picture_fuzzer.py")
    command = [sys.executable, str(program), "--seconds", "600", "--seed", str(time.time_ns() % 10**6)]
    done = subprocess.run([*command, "--keep", str(tmp_path)], capture_output=True, text=True, timeout=800)
    print(" ".join(command[2:]), done.stdout)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert json.loads(done.stdout)["pictures"] > 10_000


def test_the_seeds_are_whole() -> None:
    for content in SEEDS:
        process(content)
        assert BytesIO(content).read(1)
