"""Every kind of picture to every format, and to every way of sizing; the documentation's tables come from here."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_jobs import only_report, run
from picture_kinds import DURATIONS, HEIGHT, KINDS, SWAPPED, WIDTH, Kind, Pixels
from picture_reference import all_or_nothing, distance, moved, on, resampled, shown
from PIL import Image

from cl_ml_tools.plugins.image_conversion.task import ImageConversionTask
from cl_ml_tools.plugins.image_resize.task import ImageResizeTask

DOCUMENT = Path(__file__).parents[2] / "docs" / "pictures.md"

TARGETS = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tiff", "avif"]
NAMES = {"jpg": "JPEG", "jpeg": "JPEG"}
ANIMATED = {"PNG", "WEBP", "GIF", "AVIF"}
OPAQUE = {"JPEG", "BMP"}

# How far a format takes a smooth picture away from itself, in 256ths on the average: what was measured, and a quarter.
LOSS = {"PNG": 0.5, "TIFF": 0.5, "BMP": 0.5, "JPEG": 1.3, "WEBP": 2.7, "AVIF": 1.3, "GIF": 2.3}
# A lossy format does so much more to a picture that has hard edges.
HARD_EDGES = 3.2
LOSSY = {"JPEG", "WEBP", "AVIF"}

SIZINGS: dict[str, dict[str, Any]] = {
    "exact": {"width": 20, "height": 30},
    "fit": {"width": 24, "height": 24, "maintain_aspect_ratio": True},
    "fill": {"width": 20, "height": 20, "mode": "fill"},
    "one side": {"height": 20},
    "enlarge": {"width": 90, "enlarge": True},
}
SIZES = {
    "exact": ((20, 30), (1.0, 1.0)),
    "fit": ((24, 16), (1.0, 1.0)),
    "fill": ((20, 20), (HEIGHT / WIDTH, 1.0)),
    "one side": ((30, 20), (1.0, 1.0)),
    "enlarge": ((90, 60), (1.0, 1.0)),
}


def expected_in(format_name: str, pixels: Pixels) -> Pixels:
    if format_name in OPAQUE:
        return np.concatenate([on(1.0, pixels), np.ones_like(pixels[..., 3:])], axis=-1)
    return all_or_nothing(pixels) if format_name == "GIF" else pixels


def check(path: Path, kind: Kind, seen: list[Pixels], report: dict[str, Any]) -> None:
    """That the file is what the report says and shows what is to be seen."""
    content = path.read_bytes()
    assert (report["bytes"], report["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    name = report["format"]
    keeps_all = len(seen) > 1 and (name in ANIMATED or name == "TIFF")
    with Image.open(path) as file:
        assert (file.format, file.mode, file.size) == (
            name,
            report["mode"],
            (report["width"], report["height"]),
        )
        assert getattr(file, "n_frames", 1) == report["frames"] == (len(seen) if keeps_all else 1)
        assert file.getexif().get(0x0112, 1) == 1
        carries = kind.swapped and name not in ("GIF", "BMP")
        assert file.info.get("icc_profile") == (SWAPPED if carries else None)
        if keeps_all and name in ANIMATED:
            assert durations(file) == (DURATIONS if kind.is_timed else (1000, 1000, 1000))
    if len(seen) > 1 and not keeps_all:
        assert any("Only the first of 3 frames" in warning for warning in report["warnings"])
        seen = seen[:1]
    frames = shown(path)
    assert len(frames) == len(seen)
    for frame, pixels in zip(frames, seen, strict=True):
        expected = expected_in(name, pixels)
        off = distance(frame, expected)
        assert off < kind.loss + LOSS[name] * (HARD_EDGES if kind.has_edges and name in LOSSY else 1)
        # However much a format blurs it: it is nearest to where it belongs.
        assert off < min(distance(frame, other) for other in moved(expected))


def durations(file: Image.Image) -> tuple[float, ...]:
    found = []
    for number in range(file.n_frames):  # type: ignore[attr-defined]
        file.seek(number)
        file.load()
        found.append(file.info["duration"])
    return tuple(found)


def convert(kind: Kind, target: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    source = folder / f"source{kind.extension}"
    kind.write(source)
    planned = folder / f"converted_source.{'jpg' if target == 'jpeg' else target}"
    report = only_report(run(ImageConversionTask(), source, planned, format=target))
    assert report["output_path"] == str(planned)
    return planned, report


def resize(kind: Kind, sizing: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    source = folder / f"source{kind.extension}"
    kind.write(source)
    planned = folder / f"resized_source{kind.extension}"
    output = run(ImageResizeTask(), source, planned, **SIZINGS[sizing])
    report = only_report(output)
    assert output["dimensions"] == {"width": report["width"], "height": report["height"]}
    assert report["output_path"] == str(planned)
    return planned, report


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_converted_to_every_format_and_shows_the_same(
    name: str, target: str, tmp_path: Path
) -> None:
    kind = KINDS[name]
    path, report = convert(kind, target, tmp_path)
    assert report["format"] == NAMES.get(target, target.upper())
    assert (report["width"], report["height"]) == (WIDTH, HEIGHT)
    check(path, kind, list(kind.seen), report)


@pytest.mark.parametrize("sizing", SIZINGS)
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_resized_in_its_own_format_and_shows_the_same(
    name: str, sizing: str, tmp_path: Path
) -> None:
    kind = KINDS[name]
    path, report = resize(kind, sizing, tmp_path)
    size, crop = SIZES[sizing]
    assert (report["width"], report["height"]) == size
    with Image.open(tmp_path / f"source{kind.extension}") as source:
        assert report["format"] == source.format
    check(path, kind, [resampled(pixels, size, crop) for pixels in kind.seen], report)


def cell(report: dict[str, Any], legend: list[str]) -> str:
    frames = f" x {report['frames']}" if report["frames"] > 1 else ""
    with Image.open(report["output_path"]) as file:
        frames += " + ICC" if file.info.get("icc_profile") else ""
    marks = []
    for warning in report["warnings"]:
        general = re.sub(rf"\b{report['format']}\b", "the format", warning)
        if general not in legend:
            legend.append(general)
        marks.append(chr(ord("a") + legend.index(general)))
    return f"{report['mode']}{frames} {' '.join(marks)}".strip()


def table(folder: Path) -> str:
    legend: list[str] = []
    targets = [target for target in TARGETS if target != "jpeg"]
    lines = [f"| source | {' | '.join(targets)} | resized |", "|---" * (len(targets) + 2) + "|"]
    for number, kind in enumerate(KINDS.values()):
        place = folder / str(number)
        place.mkdir()
        reports = [convert(kind, target, place)[1] for target in targets] + [resize(kind, "fit", place)[1]]
        lines.append(f"| {kind.what} | {' | '.join(cell(report, legend) for report in reports)} |")
    notes = [f"- {chr(ord('a') + number)}: {text}" for number, text in enumerate(legend)]
    return "\n".join([*lines, "", *notes])


def test_the_table_of_the_documentation_is_what_comes_out(tmp_path: Path) -> None:
    made = table(tmp_path)
    pattern = re.compile(r"(?<=<!-- table: made by tests/pictures -->\n).*?(?=\n<!-- end -->)", re.DOTALL)
    text = DOCUMENT.read_text()
    if os.environ.get("WRITE_TABLES"):
        DOCUMENT.write_text(text := pattern.sub(lambda _: made, text))
    (found,) = pattern.findall(text)
    assert found == made, "WRITE_TABLES=1 python -m pytest tests/pictures writes it anew"
