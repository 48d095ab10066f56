"""How pictures are sized, and what their outputs are called."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_jobs import only_report, run
from picture_kinds import WIDTH, exif, image, lay_down, scene, see_through
from picture_reference import distance, resampled, shown
from PIL import Image, features
from pydantic import ValidationError

from cl_ml_tools.errors import BadInputError
from cl_ml_tools.pictures import Scaling, open_picture, scaled_first, scaling_for
from cl_ml_tools.plugins.image_resize.schema import ImageResizeParams
from cl_ml_tools.plugins.image_resize.task import ImageResizeTask

RESIZE = ImageResizeTask()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    image(scene(), "RGB").save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


# --- sizes; the source has 60 x 40 pixels


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({"width": 20, "height": 30}, (20, 30)),
        ({"width": 200, "height": 300}, (200, 300)),
        ({"width": 20, "height": 30, "mode": "exact"}, (20, 30)),
        ({"width": 30, "height": 30, "maintain_aspect_ratio": True}, (30, 20)),
        ({"width": 300, "height": 20, "maintain_aspect_ratio": True}, (30, 20)),
        ({"width": 300, "height": 300, "maintain_aspect_ratio": True}, (60, 40)),
        ({"width": 300, "height": 300, "mode": "fit"}, (60, 40)),
        ({"width": 300, "height": 300, "mode": "fit", "enlarge": True}, (300, 200)),
        ({"width": 1, "height": 1, "mode": "fit"}, (1, 1)),
        ({"width": 20, "height": 20, "mode": "fill"}, (20, 20)),
        ({"width": 80, "height": 80, "mode": "fill"}, (40, 40)),
        ({"width": 80, "height": 80, "mode": "fill", "enlarge": True}, (80, 80)),
        ({"width": 80, "height": 20, "mode": "fill"}, (60, 15)),
        ({"width": 80, "height": 20, "mode": "Fill", "maintain_aspect_ratio": True}, (60, 15)),
        ({"width": 30}, (30, 20)),
        ({"height": 10}, (15, 10)),
        ({"width": 600}, (60, 40)),
        ({"width": 600, "enlarge": True}, (600, 400)),
        ({"height": 80, "mode": "exact", "enlarge": True}, (120, 80)),
    ],
)
def test_it_gets_the_size_that_was_asked_for(
    asked: dict[str, Any], size: tuple[int, int], source: Path, tmp_path: Path
) -> None:
    output = run(RESIZE, source, tmp_path / "out.png", **asked)
    assert output["dimensions"] == {"width": size[0], "height": size[1]}
    with Image.open(tmp_path / "out.png") as done:
        assert done.size == size


def test_filling_keeps_the_middle_and_the_proportions() -> None:
    assert scaling_for((60, 40), 20, 20, "fill") == Scaling((20, 20), (40 / 60, 1.0))
    assert scaling_for((40, 60), 30, 10, "fill") == Scaling((30, 10), (1.0, pytest.approx(40 / 180)))  # type: ignore[arg-type]
    for width in range(1, 50, 7):
        for height in range(1, 50, 7):
            scaling = scaling_for((61, 37), width, height, "fill")
            assert all(0 < share <= 1 for share in scaling.crop)
            assert 1.0 in scaling.crop


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "give width, height or both"),
        ({"maintain_aspect_ratio": True}, "give width, height or both"),
        ({"width": 3, "mode": "exact", "maintain_aspect_ratio": True}, "leave one of them out"),
        ({"width": 3, "mode": "stretch"}, "'fit', 'fill' or 'exact'"),
        ({"width": 3, "background": "#12345"}, "give a colour as #rrggbb"),
        ({"width": 3, "quality": 101}, "less than or equal to 100"),
    ],
)
def test_what_says_no_size_or_two_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ImageResizeParams.model_validate(asked)


@pytest.mark.parametrize("field", ["width", "height"])
@pytest.mark.parametrize("value", [0, -1, 65536, "wide", 1.5])
def test_a_size_that_cannot_be_is_refused_by_the_schema(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        ImageResizeParams.model_validate({"width": 1, "height": 1, field: value})
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]


def test_a_size_that_would_be_a_bomb_is_not_made(source: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"cat\.png, resized, has 65535 x 65535 pixels"):
        run(RESIZE, source, tmp_path / "out.png", width=65535, height=65535)


# --- turning


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tiff", "avif"])
def test_a_picture_is_turned_upright_before_it_is_sized(
    orientation: int, extension: str, tmp_path: Path
) -> None:
    pixels = scene()
    # By the words of the EXIF specification: where the first row and the first column of the file are seen.
    lying = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: lay_down(pixels, 6),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: lay_down(pixels, 8),
    }[orientation]
    source, target = tmp_path / f"lying.{extension}", tmp_path / f"out.{extension}"
    image(np.ascontiguousarray(lying), "RGB").save(source, quality=95, exif=exif(orientation))
    output = run(RESIZE, source, target, width=30, height=30, mode="fit")
    assert output["dimensions"] == {"width": 30, "height": 20}
    (seen,) = shown(target)
    assert distance(seen, resampled(pixels, (30, 20))) < 5
    with Image.open(target) as done:
        assert done.getexif().get(0x0112, 1) == 1


# --- quality


def test_black_and_white_is_resized_with_a_real_filter(tmp_path: Path) -> None:
    checked = Image.fromarray((np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)).convert("1")
    checked.save(tmp_path / "checked.png")
    run(RESIZE, tmp_path / "checked.png", tmp_path / "out.png", width=8, height=8)
    with Image.open(tmp_path / "out.png") as done:
        assert done.getpixel((4, 4)) == pytest.approx(127, abs=10)


def test_16_bits_survive_resizing(tmp_path: Path) -> None:
    levels = np.repeat(np.array([[10000] * 20 + [65535] * 20], np.uint16), 24, axis=0)
    for name, picture in {"little": levels, "big": levels.astype(">u2")}.items():
        for extension in ("png", "tiff"):
            Image.fromarray(picture).save(tmp_path / f"{name}.{extension}")
            target = tmp_path / f"out-{name}.{extension}"
            run(RESIZE, tmp_path / f"{name}.{extension}", target, width=20, height=12)
            with Image.open(target) as done:
                assert done.mode.startswith("I;16")
                assert (done.getpixel((1, 5)), done.getpixel((18, 5))) == (10000, 65535)


def test_what_is_hidden_does_not_bleed_into_what_is_seen(tmp_path: Path) -> None:
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[:, :20] = (200, 200, 200, 255)
    pixels[:, 20:] = (255, 0, 0, 0)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "cut.png")
    run(RESIZE, tmp_path / "cut.png", tmp_path / "out.png", width=13, height=13)
    with Image.open(tmp_path / "out.png") as done:
        rgba = np.asarray(done.convert("RGBA")).astype(int)
    visible = rgba[rgba[..., 3] > 30]
    assert abs(visible[:, 0] - visible[:, 1]).max() <= 3


@pytest.mark.parametrize(("size", "decibels"), [((400, 300), 37.0), ((500, 375), 40.0), ((73, 55), 40.0)])
def test_the_fast_way_to_a_small_jpeg_is_close_to_the_exact_one(
    size: tuple[int, int], decibels: float, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    noise = Image.fromarray(rng.integers(0, 255, (150, 200, 3), np.uint8)).resize(
        (1600, 1200), Image.Resampling.BICUBIC
    )
    noise.save(tmp_path / "large.jpg", quality=95)
    with Image.open(tmp_path / "large.jpg") as file:
        exact = np.asarray(file.resize(size, Image.Resampling.LANCZOS), float)
    with open_picture(tmp_path / "large.jpg") as picture:
        fast = np.asarray(scaled_first(picture, Scaling(size)).upright(), float)
    error = ((fast - exact) ** 2).mean()
    assert 10 * np.log10(255**2 / error) > decibels


def test_the_faster_window_for_large_lossy_pictures_is_close_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(0, 255, (300, 400, 3), np.uint8))
    coarse.resize((2400, 1800), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg", quality=95)
    with Image.open(tmp_path / "large.jpg") as file:
        exact = np.asarray(file.resize((1000, 750), Image.Resampling.LANCZOS), float)
    found = []
    for loses in (False, True):
        with open_picture(tmp_path / "large.jpg") as picture:
            fast = np.asarray(scaled_first(picture, Scaling((1000, 750)), loses=loses).upright(), float)
        found.append(10 * np.log10(255**2 / ((fast - exact) ** 2).mean()))
    assert min(found) > 35
    assert found[0] != found[1]


def test_filling_a_large_jpeg_that_lies_on_its_side_takes_its_middle(tmp_path: Path) -> None:
    pixels = scene().repeat(20, axis=0).repeat(20, axis=1)
    image(np.ascontiguousarray(lay_down(pixels, 6)), "RGB").save(
        tmp_path / "lying.jpg", quality=95, exif=exif(6)
    )
    run(RESIZE, tmp_path / "lying.jpg", tmp_path / "out.jpg", width=50, height=90, mode="fill")
    (seen,) = shown(tmp_path / "out.jpg")
    crop = 50 / 90 * 800 / 1200
    assert distance(seen, resampled(pixels, (50, 90), (crop, 1.0))) < 4


# --- names and formats of outputs


@pytest.mark.parametrize(
    ("planned", "written"),
    [
        ("resized_cat.png", "resized_cat.png"),
        ("resized_cat.PNG", "resized_cat.PNG"),
        ("resized_cat.jpg", "resized_cat.png"),
        ("resized_cat.heic", "resized_cat.png"),
        ("resized_cat", "resized_cat.png"),
        ("resized_holiday.2024", "resized_holiday.2024.png"),
        ("resized_a.b.gif", "resized_a.b.png"),
    ],
)
def test_the_extension_follows_the_real_format(
    planned: str, written: str, source: Path, tmp_path: Path
) -> None:
    report = only_report(run(RESIZE, source, tmp_path / planned, width=5))
    assert Path(report["output_path"]) == tmp_path / written
    assert [path.name for path in tmp_path.iterdir() if path != source] == [written]


@pytest.mark.parametrize(
    ("mode", "planned", "written"),
    [("L", "a.pgm", "a.pgm"), ("RGB", "a.pgm", "a.ppm"), ("1", "a.pbm", "a.pgm"), ("F", "a.pfm", "a.pfm")],
)
def test_the_extension_of_a_ppm_follows_its_colours(
    mode: str, planned: str, written: str, tmp_path: Path
) -> None:
    Image.new(mode, (9, 9)).save(tmp_path / "in", "PPM")
    report = only_report(run(RESIZE, tmp_path / "in", tmp_path / planned, width=5))
    assert Path(report["output_path"]).name == written


def test_outputs_that_come_to_one_name_are_kept_apart(tmp_path: Path) -> None:
    for name, picture_format in (("a.png", "JPEG"), ("a.jpg", "JPEG"), ("A.webp", "JPEG")):
        image(scene(), "RGB").save(tmp_path / name, picture_format)
    names = ["a.png", "a.jpg", "A.webp"]
    outputs = [tmp_path / "out" / name for name in names]
    (tmp_path / "out").mkdir()
    output = run(RESIZE, [tmp_path / name for name in names], outputs, width=5)
    assert [Path(path).name for path in output["processed_files"]] == ["a-2.jpg", "a.jpg", "A-3.jpg"]


def test_a_bmp_with_transparency_is_written_as_png(tmp_path: Path) -> None:
    # 32 bits, with masks that say where the alpha is.
    picture = image(see_through(scene()), "RGBA")
    raw = picture.tobytes("raw", "BGRA", 0, -1)
    header = (14 + 108 + len(raw), 0, 0, 14 + 108)
    info = struct.pack("<IiiHHIIiiII", 108, *picture.size, 1, 32, 3, len(raw), 0, 0, 0, 0)
    info += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs"
    (tmp_path / "a.bmp").write_bytes(b"BM" + struct.pack("<IHHI", *header) + info.ljust(108, b"\0") + raw)
    report = only_report(run(RESIZE, tmp_path / "a.bmp", tmp_path / "out.bmp", width=WIDTH))
    assert (report["format"], report["mode"], Path(report["output_path"]).suffix) == ("PNG", "RGBA", ".png")
    assert "It was written as PNG: BMP cannot hold it." in report["warnings"]
    assert distance(shown(Path(report["output_path"]))[0], see_through(scene())) < 1


def test_a_webp_that_gets_too_wide_is_written_as_png(tmp_path: Path) -> None:
    image(scene(), "RGB").save(tmp_path / "a.webp")
    report = only_report(run(RESIZE, tmp_path / "a.webp", tmp_path / "out.webp", width=17000, height=3))
    assert (report["format"], report["width"], report["height"]) == ("PNG", 17000, 3)


def test_without_an_encoder_for_avif_it_is_written_as_webp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(scene(), "RGB").save(tmp_path / "a.avif")
    check = features.check
    monkeypatch.setattr(features, "check", lambda name: name != "avif" and check(name))
    report = only_report(run(RESIZE, tmp_path / "a.avif", tmp_path / "out.avif", width=9))
    assert (report["format"], Path(report["output_path"]).name) == ("WEBP", "out.webp")


def test_pages_of_different_sizes_are_fitted_one_by_one(tmp_path: Path) -> None:
    pages = [Image.new("RGB", size, "red") for size in ((60, 40), (40, 60), (10, 10))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    run(RESIZE, tmp_path / "a.tif", tmp_path / "out.tif", width=20, height=20, mode="fit")
    with Image.open(tmp_path / "out.tif") as done:
        sizes = []
        for number in range(done.n_frames):  # type: ignore[attr-defined]
            done.seek(number)
            sizes.append(done.size)
    assert sizes == [(20, 13), (13, 20), (10, 10)]


def test_a_page_that_is_a_smaller_version_of_another_one_is_left_out(tmp_path: Path) -> None:
    large, small = Image.new("RGB", (60, 40), "red"), Image.new("RGB", (6, 4), "red")
    small.encoderinfo = {"tiffinfo": {254: 1}}
    large.save(tmp_path / "a.tif", save_all=True, append_images=[small])
    report = only_report(run(RESIZE, tmp_path / "a.tif", tmp_path / "out.tif", width=20))
    assert (report["frames"], report["width"]) == (1, 20)
