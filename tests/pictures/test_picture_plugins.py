"""Thumbnails, metadata, hashes, watermarks, contact sheets."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pytest
from picture_jobs import only_report, run
from picture_kinds import SRGB, SWAPPED, exif, image, lay_down, scene, see_through
from picture_reference import distance, resampled, shown
from PIL import Image

from cl_ml_tools import pictures
from cl_ml_tools.errors import BadInputError
from cl_ml_tools.plugins.contact_sheet.sheet import layout_for
from cl_ml_tools.plugins.contact_sheet.task import ContactSheetTask
from cl_ml_tools.plugins.image_hash.hashes import HASHES
from cl_ml_tools.plugins.image_hash.task import ImageHashTask
from cl_ml_tools.plugins.image_metadata.task import ImageMetadataTask
from cl_ml_tools.plugins.image_thumbnail.task import ImageThumbnailTask
from cl_ml_tools.plugins.image_watermark.task import ImageWatermarkTask


def natural(seed: int, size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """A picture with the spectrum that photographs have."""
    rng = np.random.default_rng(seed)
    width, height = size
    frequencies = np.hypot(*np.meshgrid(np.fft.rfftfreq(width), np.fft.fftfreq(height)))
    frequencies[0, 0] = 1
    bands = []
    for _ in range(3):
        noise = np.fft.irfft2(
            np.fft.rfft2(rng.standard_normal((height, width))) / frequencies**1.2, (height, width)
        )
        bands.append(np.clip(128 + 50 * (noise - noise.mean()) / noise.std(), 0, 255))
    return Image.fromarray(np.dstack(bands).astype(np.uint8)).convert(mode)


# --- thumbnails


def test_thumbnails_of_several_sizes_come_from_one_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    natural(1, (1600, 1200)).save(tmp_path / "large.jpg", quality=95)
    loads: list[tuple[int, int] | None] = []
    first = pictures.Picture.first

    def counted(picture: pictures.Picture, at_least: tuple[int, int] | None = None) -> pictures.Frame:
        loads.append(at_least)
        return first(picture, at_least)

    monkeypatch.setattr(pictures.Picture, "first", counted)
    output = run(
        ImageThumbnailTask(), tmp_path / "large.jpg", tmp_path / "t.png", sizes="400,64,150,64", format="png"
    )
    assert loads == [(400, 300)]
    assert [(entry["size"], entry["width"], entry["height"]) for entry in output["files"]] == [
        (400, 400, 300),
        (64, 64, 48),
        (150, 150, 112),
    ]
    assert [Path(path).name for path in output["processed_files"]] == ["t_400.png", "t_64.png", "t_150.png"]
    with Image.open(tmp_path / "large.jpg") as file:
        pixels = np.asarray(file.convert("RGBA"), float) / 255
    for path in map(Path, output["processed_files"]):
        (seen,) = shown(path)
        assert distance(seen, resampled(pixels, (seen.shape[1], seen.shape[0]))) < 5


def test_a_square_thumbnail_is_the_middle_and_is_upright_and_in_srgb(tmp_path: Path) -> None:
    pixels = scene()
    swapped = np.ascontiguousarray(lay_down(pixels, 6)[..., [1, 0, 2, 3]])
    image(swapped, "RGB").save(tmp_path / "a.jpg", quality=95, exif=exif(6), icc_profile=SWAPPED)
    output = run(ImageThumbnailTask(), tmp_path / "a.jpg", tmp_path / "t.jpg", sizes=[24, 12], mode="fill")
    for path, side in zip(map(Path, output["processed_files"]), (24, 12), strict=True):
        (seen,) = shown(path)
        assert distance(seen, resampled(pixels, (side, side), (40 / 60, 1.0))) < 5
        with Image.open(path) as file:
            assert "icc_profile" not in file.info


@pytest.mark.parametrize(
    ("mode", "asked", "extension", "picture_format"),
    [
        ("RGB", {}, ".jpg", "JPEG"),
        ("RGBA", {}, ".png", "PNG"),
        ("RGBA", {"background": "white"}, ".jpg", "JPEG"),
        ("RGBA", {"format": "webp"}, ".webp", "WEBP"),
        ("RGBA", {"format": "JPG"}, ".jpg", "JPEG"),
    ],
)
def test_a_thumbnail_is_jpeg_unless_something_is_transparent(
    mode: str, asked: dict[str, Any], extension: str, picture_format: str, tmp_path: Path
) -> None:
    image(see_through(scene()), mode).save(tmp_path / "a.png")
    report = only_report(run(ImageThumbnailTask(), tmp_path / "a.png", tmp_path / "t.jpg", sizes=16, **asked))
    assert (report["format"], Path(report["output_path"]).name) == (picture_format, f"t_16{extension}")


def test_a_small_picture_is_not_enlarged_and_an_animation_shows_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    output = run(ImageThumbnailTask(), tmp_path / "a.gif", tmp_path / "t.jpg", sizes=[100, 50, 10])
    assert [(entry["width"], entry["height"]) for entry in output["files"]] == [(30, 20), (30, 20), (10, 7)]
    assert output["files"][0]["warnings"] == ["It shows the first of 2 frames."]
    assert shown(Path(output["processed_files"][2]))[0][3, 3, 0] > 0.9


# --- metadata


def described(picture: Path, tmp_path: Path, **asked: Any) -> dict[str, Any]:
    report = only_report(run(ImageMetadataTask(), picture, tmp_path / "m.json", **asked))
    written = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert written == {
        key: value for key, value in report.items() if key not in ("input_path", "output_path")
    }
    return written  # type: ignore[no-any-return]  # as JSON gives it


def test_metadata_tells_what_a_picture_is(tmp_path: Path) -> None:
    data = exif(6, artist="Ada", copyright="Ada 2024")
    data[0x0110] = "Camera 5"
    data.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    data.get_ifd(0x8769)[0x829A] = 1 / 8
    data.get_ifd(0x8769)[0x927C] = b"\0secret notes of the maker" * 100
    data.get_ifd(0x8825)[1] = "N"
    data.get_ifd(0x8825)[2] = (52.0, 30.0, 0.0)
    halves = Image.new("RGB", (60, 40), "#c81e14")
    halves.paste("#faf0e6", (0, 0, 15, 40))
    halves.save(tmp_path / "a.jpg", quality=95, exif=data, icc_profile=SRGB, dpi=(300, 300))
    told = described(tmp_path / "a.jpg", tmp_path)
    content = (tmp_path / "a.jpg").read_bytes()
    assert told["sha256"] == hashlib.sha256(content).hexdigest()
    expected = {
        "name": "a.jpg",
        "format": "JPEG",
        "width": 40,
        "height": 60,
        "mode": "RGB",
        "frames": 1,
        "plays": None,
        "orientation": 6,
        "has_alpha": False,
        "dpi": [300.0, 300.0],
        "icc_profile": "sRGB built-in",
        "artist": "Ada",
        "copyright": "Ada 2024",
        "bytes": len(content),
        "warnings": [],
    }
    assert {key: told[key] for key in expected} == expected
    assert told["exif"]["Model"] == "Camera 5"
    assert told["exif"]["DateTimeOriginal"] == "2024:05:06 07:08:09"
    assert told["exif"]["ExposureTime"] == 0.125
    assert "GPS" not in json.dumps(told)
    assert "secret" not in json.dumps(told)
    assert described(tmp_path / "a.jpg", tmp_path, gps=True)["exif"]["GPS"] == {
        "GPSLatitudeRef": "N",
        "GPSLatitude": [52.0, 30.0, 0.0],
    }


def test_dominant_colours_are_those_that_are_seen_most(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (40, 40), (255, 0, 255, 0))
    picture.paste((200, 30, 20, 255), (0, 0, 30, 20))
    picture.paste((20, 30, 200, 255), (0, 20, 10, 40))
    picture.save(tmp_path / "a.png")
    told = described(tmp_path / "a.png", tmp_path, colours=4)["dominant_colours"]
    assert [(entry["colour"], entry["share"]) for entry in told[:2]] == [("#c81e14", 0.75), ("#141ec8", 0.25)]
    assert described(tmp_path / "a.png", tmp_path, colours=0)["dominant_colours"] == []
    Image.new("RGBA", (9, 9)).save(tmp_path / "nothing.png")
    assert described(tmp_path / "nothing.png", tmp_path)["dominant_colours"] == []


def test_metadata_and_hashes_need_no_outputs(tmp_path: Path) -> None:
    image(scene(), "RGB").save(tmp_path / "a.png")
    for task in (ImageMetadataTask(), ImageHashTask()):
        output = run(task, tmp_path / "a.png", [])
        assert output["processed_files"] == []
        assert output["files"][0]["width"] == 60
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


# --- hashes

THEIRS = {
    "ahash": imagehash.average_hash,
    "dhash": imagehash.dhash,
    "phash": imagehash.phash,
    "whash": imagehash.whash,
}


@pytest.mark.parametrize("size", [4, 8, 16])
@pytest.mark.parametrize("algorithm", HASHES)
def test_hashes_agree_with_the_imagehash_package(algorithm: str, size: int) -> None:
    sizes = [(64, 64), (200, 150), (640, 480), (333, 1000), (1024, 300)]
    differing = []
    for seed, (dimensions, mode) in enumerate((d, m) for d in sizes for m in ("RGB", "L", "P")):
        picture = natural(seed, dimensions, mode)
        theirs = THEIRS[algorithm](picture, hash_size=size)
        ours = HASHES[algorithm](picture.convert("L"), size)
        # Few, small parts of few levels are often exactly as light as the median; their float noise decides then.
        ties = 1 if algorithm == "whash" and min(dimensions) < 100 else 0
        if imagehash.hex_to_hash(ours) - theirs > ties:
            differing.append((dimensions, mode, imagehash.hex_to_hash(ours) - theirs))
    assert differing == []


@pytest.mark.parametrize("name", ["ahash", "dhash", "phash", "whash"])
def test_the_task_gives_the_hash_of_what_is_seen(name: str, tmp_path: Path) -> None:
    picture = natural(5, (320, 240))
    picture.rotate(90, expand=True).save(tmp_path / "lying.png", exif=exif(6))
    faded = picture.copy()
    faded.putalpha(Image.linear_gradient("L").resize(picture.size))
    faded.save(tmp_path / "faded.png")
    on_white = Image.new("RGBA", picture.size, "white")
    on_white.alpha_composite(faded)
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    deep.save(tmp_path / "deep.png")
    expected = {"lying.png": picture, "faded.png": on_white.convert("RGB"), "deep.png": picture.convert("L")}
    for file, plain in expected.items():
        output = run(ImageHashTask(), tmp_path / file, tmp_path / "h.json", algorithms=name)
        (report,) = output["files"]
        assert report["hashes"] == {name: str(THEIRS[name](plain))}
        assert report["sha256"] == hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()
        assert json.loads((tmp_path / "h.json").read_text())["hashes"] == report["hashes"]


def test_pictures_that_look_alike_have_hashes_that_differ_little(tmp_path: Path) -> None:
    picture = natural(7, (400, 300))
    picture.save(tmp_path / "a.png")
    picture.resize((200, 150)).save(tmp_path / "b.jpg", quality=60)
    natural(8, (400, 300)).save(tmp_path / "c.png")
    output = run(ImageHashTask(), [tmp_path / name for name in ("a.png", "b.jpg", "c.png")], [])
    ours = [{name: int(value, 16) for name, value in entry["hashes"].items()} for entry in output["files"]]
    for name in HASHES:
        assert (ours[0][name] ^ ours[1][name]).bit_count() <= 4
        assert (ours[0][name] ^ ours[2][name]).bit_count() >= 12


def test_a_picture_of_one_colour_has_the_same_hashes_everywhere(tmp_path: Path) -> None:
    for number, colour in enumerate(("black", "gray", "white")):
        Image.new("RGB", (50, 40), colour).save(tmp_path / f"{number}.png")
    output = run(ImageHashTask(), [tmp_path / f"{number}.png" for number in range(3)], [])
    grey, white = output["files"][1]["hashes"], output["files"][2]["hashes"]
    assert grey == white == {"ahash": "0" * 16, "dhash": "0" * 16, "phash": "8" + "0" * 15, "whash": "0" * 16}


# --- watermarks


def changed(before: Path | Image.Image, after: Path) -> tuple[int, int, int, int]:
    """The box of what differs."""
    old = np.asarray(
        before if isinstance(before, Image.Image) else Image.open(before).convert("RGBA")
    ).astype(int)
    new = np.asarray(Image.open(after).convert("RGBA")).astype(int)
    rows, columns = np.nonzero(np.abs(old - new).max(axis=-1) > 12)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


@pytest.mark.parametrize(
    ("position", "x", "y"),
    [
        ("top-left", 0, 0),
        ("top", 1, 0),
        ("top_right", 2, 0),
        ("left", 0, 1),
        ("center", 1, 1),
        ("right", 2, 1),
        ("Bottom-Left", 0, 2),
        ("bottom", 1, 2),
        ("bottom-right", 2, 2),
    ],
)
def test_the_text_is_where_it_shall_be_and_as_wide_as_it_shall_be(
    position: str, x: int, y: int, tmp_path: Path
) -> None:
    Image.new("RGB", (600, 400), "navy").save(tmp_path / "a.png")
    asked = {"watermark_text": "Ada © 2024", "position": position, "scale": 0.3, "margin": 0.05}
    run(ImageWatermarkTask(), tmp_path / "a.png", tmp_path / "out.png", **asked)
    left, top, right, bottom = changed(tmp_path / "a.png", tmp_path / "out.png")
    assert right - left == pytest.approx(180, abs=8)
    assert [left, 300 - (left + right) / 2, 600 - right][x] == pytest.approx([20, 0, 20][x], abs=4)
    assert [top, 200 - (top + bottom) / 2, 400 - bottom][y] == pytest.approx([20, 0, 20][y], abs=6)


def test_opacity_counts_and_nothing_is_seen_at_0(tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), "black").save(tmp_path / "a.png")
    lightest = []
    for opacity in (0, 0.25, 0.5, 1):
        run(
            ImageWatermarkTask(),
            tmp_path / "a.png",
            tmp_path / "out.png",
            watermark_text="MMM",
            opacity=opacity,
        )
        with Image.open(tmp_path / "out.png") as done:
            lightest.append(done.convert("L").getextrema()[1])
    assert lightest == [0, pytest.approx(64, abs=1), pytest.approx(128, abs=1), 255]


def test_a_picture_can_be_the_mark_and_keeps_its_transparency(tmp_path: Path) -> None:
    Image.new("RGB", (200, 100), "white").save(tmp_path / "a.png")
    Image.new("L", (200, 100), 255).save(tmp_path / "b.jpg")
    mark = Image.new("RGBA", (10, 10))
    mark.paste((255, 0, 0, 255), (0, 0, 10, 5))
    mark.save(tmp_path / "mark.png")
    inputs = [tmp_path / name for name in ("a.png", "b.jpg", "mark.png")]
    outputs = [tmp_path / "out-a.png", tmp_path / "out-b.jpg"]
    output = run(ImageWatermarkTask(), inputs, outputs, position="top-left", scale=0.2, margin=0, opacity=0.5)
    with Image.open(outputs[0]) as done:
        assert done.getpixel((20, 5)) == (255, 127, 127)
        assert done.getpixel((20, 32)) == (255, 255, 255)
        assert done.getpixel((50, 5)) == (255, 255, 255)
    assert [entry["mode"] for entry in output["files"]] == ["RGB", "RGB"]


@pytest.mark.parametrize(
    ("name", "mode", "written"),
    [
        ("a.png", "L", "L"),
        ("a.png", "LA", "LA"),
        ("a.png", "RGBA", "RGBA"),
        ("a.png", "1", "L"),
        ("a.png", "P", "RGB"),
    ],
)
def test_a_white_mark_leaves_grey_pictures_grey_and_transparency_as_it_is(
    name: str, mode: str, written: str, tmp_path: Path
) -> None:
    image(see_through(scene()), "RGBA").resize((300, 200)).convert("RGB" if mode == "P" else "RGBA").convert(
        mode
    ).save(tmp_path / name)
    report = only_report(
        run(
            ImageWatermarkTask(),
            tmp_path / name,
            tmp_path / f"out-{name}",
            watermark_text="x",
            position="left",
        )
    )
    assert report["mode"] == written
    if mode in ("LA", "RGBA"):
        before, after = shown(tmp_path / name)[0], shown(tmp_path / f"out-{name}")[0]
        assert np.abs(before[:, 200:, 3] - after[:, 200:, 3]).max() < 0.01


def test_tiles_cover_the_picture_and_every_frame_is_marked(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (200, 120), colour) for colour in ("navy", "maroon")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    report = only_report(
        run(
            ImageWatermarkTask(),
            tmp_path / "a.webp",
            tmp_path / "out.webp",
            watermark_text="no",
            position="tile",
        )
    )
    assert report["frames"] == 2
    for before, after in zip(shown(tmp_path / "a.webp"), shown(tmp_path / "out.webp"), strict=True):
        marked = np.abs(before - after).max(axis=-1) > 0.15
        quarters = [marked[y : y + 60, x : x + 100] for y in (0, 60) for x in (0, 100)]
        assert all(quarter.any() for quarter in quarters)


def test_letters_that_the_font_does_not_have_are_named(tmp_path: Path) -> None:
    image(scene(), "RGB").save(tmp_path / "a.png")
    with pytest.raises(
        BadInputError, match=r"The font has no U\+E123, U\+E124\. Leave it out, send the mark as a picture"
    ):
        run(ImageWatermarkTask(), tmp_path / "a.png", tmp_path / "out.png", watermark_text="\ue124\ue123 a")


@pytest.mark.parametrize(
    "asked",
    [
        {"watermark_text": "i\n" * 200 + "i", "scale": 1},
        {"watermark_text": "i", "scale": 1},
        {"watermark_text": ".", "scale": 0.0001, "position": "tile"},
    ],
    ids=["many lines", "one letter", "millions of dots"],
)
def test_no_text_costs_more_than_the_picture_it_is_put_on(asked: dict[str, Any], tmp_path: Path) -> None:
    Image.new("L", (12000, 700)).save(tmp_path / "a.png")
    before = time.process_time()
    run(ImageWatermarkTask(), tmp_path / "a.png", tmp_path / "out.png", **asked)
    assert time.process_time() - before < 3


def test_letters_beyond_ascii_are_written_where_a_font_has_them(tmp_path: Path) -> None:
    if len({"DejaVuSans.ttf", pictures.font_for("Zoë")}) > 1:
        pytest.skip("DejaVu Sans is not installed")
    Image.new("L", (200, 100)).save(tmp_path / "a.png")
    # As letter and mark, too.
    for text in ("© Zoë", "© Zoe\u0308"):
        run(ImageWatermarkTask(), tmp_path / "a.png", tmp_path / "out.png", watermark_text=text)
        run(ContactSheetTask(), tmp_path / "a.png", tmp_path / "sheet.png", format="png")


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3)])
def test_a_tiny_picture_is_marked_without_a_crash(size: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    run(
        ImageWatermarkTask(), tmp_path / "a.png", tmp_path / "out.png", watermark_text="a\nb", position="tile"
    )
    with Image.open(tmp_path / "out.png") as done:
        assert done.size == size


# --- contact sheets


def test_a_sheet_shows_all_pictures_in_their_order(tmp_path: Path) -> None:
    colours = ["red", "lime", "blue", "yellow", "aqua"]
    inputs = []
    for number, colour in enumerate(colours):
        Image.new("RGB", (300, 200), colour).save(tmp_path / f"{number}.png")
        inputs.append(tmp_path / f"{number}.png")
    (tmp_path / "bad.png").write_bytes(b"")
    inputs.insert(2, tmp_path / "bad.png")
    asked = {"columns": 3, "cell": 64, "gap": 4, "format": "png", "background": "black", "labels": True}
    output = run(ContactSheetTask(), inputs, tmp_path / "sheet.png", **asked)
    layout = layout_for(5, 3, 64, 4, labels=True)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == layout.size == (208, 4 + 2 * (64 + 13 + 4))
        for number, colour in enumerate(colours):
            left, top = layout.corner(number)
            assert sheet.getpixel((left + 32, top + 32)) == Image.new("RGB", (1, 1), colour).getpixel((0, 0))
            label = sheet.crop((left, top + 64, left + 64, top + 64 + 13)).convert("L")
            assert max(label.tobytes()) > 200
    assert output["columns"] == 3
    assert output["partly_failed"]
    assert output["processed_files"] == [str(tmp_path / "sheet.png")]
    assert [entry.get("cell") for entry in output["files"]] == [0, 1, None, 2, 3, 4, None]
    assert output["files"][-1]["input_path"] is None


def test_what_a_sheet_does_not_show_of_a_picture_is_told(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    cell, _ = run(ContactSheetTask(), tmp_path / "a.gif", tmp_path / "sheet.png", format="png")["files"]
    assert cell == {
        "input_path": str(tmp_path / "a.gif"),
        "cell": 0,
        "warnings": ["It shows the first of 2 frames."],
    }


def test_a_sheet_that_would_be_too_large_is_refused_before_a_picture_is_read(tmp_path: Path) -> None:
    inputs = [tmp_path / "gone.png"] * 100
    with pytest.raises(BadInputError, match=r"sheet\.jpg has 20612 x 20972 pixels; the limit is 50000000"):
        run(ContactSheetTask(), inputs, tmp_path / "sheet.jpg", cell=2048)


def test_a_long_name_is_cut_to_its_box_and_a_sheet_is_about_square(tmp_path: Path) -> None:
    image(scene(), "RGB").save(tmp_path / f"{'long ' * 20}.png")
    run(
        ContactSheetTask(),
        [tmp_path / f"{'long ' * 20}.png"] * 7,
        tmp_path / "sheet.png",
        cell=32,
        format="png",
    )
    layout = layout_for(7, None, 32, 12, labels=True)
    assert layout.columns == 3
    with Image.open(tmp_path / "sheet.png") as sheet:
        gap = sheet.crop((12 + 32, 12, 12 + 44, 12 + 32 + layout.label_height)).convert("L")
        assert gap.getextrema() == (255, 255)
