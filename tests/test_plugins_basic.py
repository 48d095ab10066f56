import asyncio
import errno
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image, ImageCms, ImageDraw
from plain_implementations import MemoryRepository
from pydantic import ValidationError

from cl_ml_tools import BaseJobParams, ComputeModule, Job, pictures
from cl_ml_tools.errors import BadInputError
from cl_ml_tools.master import create_master_router
from cl_ml_tools.plugins.image_conversion import ImageConversionParams, ImageConversionTask
from cl_ml_tools.plugins.image_resize import ImageResizeParams, ImageResizeTask
from cl_ml_tools.stores.local_files import LocalFileStorage

SIZE = (40, 24)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RESIZE: ComputeModule[Any] = ImageResizeTask()
CONVERT: ComputeModule[Any] = ImageConversionTask()


def halves(mode: str = "RGB", dark: Any = (200, 30, 20), light: Any = (250, 240, 230)) -> Image.Image:
    """A picture whose left half is dark and whose right half is light."""
    image = Image.new(mode, SIZE, light)
    # An image and not a number: Pillow 13 pastes only the low byte of a number into 16 bits.
    image.paste(Image.new(mode, (SIZE[0] // 2, SIZE[1]), dark), (0, 0))
    return image


def converted(mode: str) -> Image.Image:
    return halves().convert(mode)


def with_alpha(mode: str) -> Image.Image:
    image = halves().convert(mode)
    image.putalpha(255)
    ImageDraw.Draw(image).rectangle((20, 0, 40, 24), fill=(0, 0) if mode == "LA" else (0, 0, 0, 0))
    return image


def transparent_palette() -> Image.Image:
    image = halves().quantize(4)
    image.info["transparency"] = image.getpixel((39, 0))
    return image


def deep(mode: str, dark: float, light: float) -> Image.Image:
    return halves(mode, dark, light)


# 14 pictures as they come: the format of the file, and how its pixels are stored.
SOURCES: dict[str, tuple[str, Callable[[], Image.Image]]] = {
    "black-and-white": ("PNG", lambda: halves("1", 0, 1)),
    "grey": ("JPEG", lambda: converted("L")),
    "grey-alpha": ("PNG", lambda: with_alpha("LA")),
    "palette": ("GIF", lambda: halves().quantize(8)),
    "palette-transparent": ("PNG", transparent_palette),
    "colour": ("JPEG", halves),
    "colour-alpha": ("WEBP", lambda: with_alpha("RGBA")),
    "colour-bmp": ("BMP", halves),
    "cmyk": ("JPEG", lambda: converted("CMYK")),
    "lab": ("TIFF", lambda: halves("LAB", (80, 128, 128), (240, 128, 128))),
    "ycbcr": ("TIFF", lambda: converted("YCbCr")),
    "grey-16": ("PNG", lambda: deep("I;16", 10000, 40000)),
    "grey-32": ("TIFF", lambda: deep("I", 10000, 40000)),
    "fractions": ("TIFF", lambda: deep("F", 0.2, 0.8)),
}
TARGETS = {
    "png": "PNG",
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "webp": "WEBP",
    "gif": "GIF",
    "bmp": "BMP",
    "tiff": "TIFF",
}


def write(image: Image.Image, path: Path, picture_format: str, **options: Any) -> Path:
    image.save(path, picture_format, **options)
    return path


def run(
    task: ComputeModule[Any], source: Path | list[Path], target: Path | list[Path], **asked: Any
) -> dict[str, Any]:
    """Have the task do a job, and return its task_output."""
    sources, targets = (paths if isinstance(paths, list) else [paths] for paths in (source, target))
    schema: type[BaseJobParams] = task.get_schema()
    asked |= {"input_paths": [str(path) for path in sources], "output_paths": [str(path) for path in targets]}
    job = Job(job_id="j", task_type=task.task_type, params=asked)
    result = asyncio.run(task.execute(job, schema.model_validate(asked)))
    assert result["status"] == "ok"
    output: dict[str, Any] = result["task_output"]
    return output


def grey_of(image: Image.Image, x: int) -> int:
    """How bright the picture is at ``x``, transparent as white."""
    visible = Image.new("RGBA", image.size, "white")
    visible.alpha_composite(image.convert("RGBA"))
    return visible.convert("L").crop((x, image.height // 2, x + 1, image.height // 2 + 1)).tobytes()[0]


def as_seen(path: Path) -> Image.Image:
    """The picture in 8 bits and RGB terms, whatever it is stored as."""
    with Image.open(path) as image:
        image.load()
        if image.mode in ("I;16", "I;16B", "I"):
            return image.convert("F").point(lambda value: value * (255 / 65535) + 0).convert("L")
        if image.mode == "F":
            return image.point(lambda value: value * 255.0 + 0).convert("L")
        if image.mode == "LAB":
            return image.split()[0]
        return image.copy()


# --- conversion


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_kind_of_picture_converts_to_every_format(source: str, target: str, tmp_path: Path) -> None:
    picture_format, draw = SOURCES[source]
    path = write(draw(), tmp_path / "source", picture_format)
    output = run(CONVERT, path, tmp_path / "target", format=target)
    assert output == {"processed_files": [str(tmp_path / "target")], "format": target, "quality": 85}
    with Image.open(tmp_path / "target") as image:
        assert image.format == TARGETS[target]
        assert image.size == SIZE
    seen = as_seen(tmp_path / "target")
    assert grey_of(seen, 35) - grey_of(seen, 5) > 60


@pytest.mark.parametrize("target", ["jpg", "bmp"])
@pytest.mark.parametrize("source", ["grey-alpha", "colour-alpha", "palette-transparent"])
def test_alpha_goes_onto_white_where_there_is_no_place_for_it(
    source: str, target: str, tmp_path: Path
) -> None:
    picture_format, draw = SOURCES[source]
    path = write(draw(), tmp_path / "source", picture_format)
    run(CONVERT, path, tmp_path / "target", format=target)
    assert as_seen(tmp_path / "target").convert("L").getpixel((35, 12)) == pytest.approx(255, abs=3)


@pytest.mark.parametrize("target", ["png", "webp", "gif", "tiff"])
@pytest.mark.parametrize("source", ["grey-alpha", "colour-alpha", "palette-transparent"])
def test_alpha_stays_where_there_is_a_place_for_it(source: str, target: str, tmp_path: Path) -> None:
    picture_format, draw = SOURCES[source]
    path = write(draw(), tmp_path / "source", picture_format)
    run(CONVERT, path, tmp_path / "target", format=target)
    alpha = as_seen(tmp_path / "target").convert("RGBA").getchannel("A")
    assert (alpha.getpixel((5, 12)), alpha.getpixel((35, 12))) == (255, 0)


@pytest.mark.parametrize("target", ["webp", "tiff", "gif", "png"])
@pytest.mark.parametrize(
    ("image", "transparent"),
    [(halves("RGB", (255, 0, 0), (0, 255, 0)), (0, 255, 0)), (halves("L", 90, 200), 200)],
    ids=["colour", "grey"],
)
def test_a_colour_that_means_transparent_becomes_alpha(
    image: Image.Image, transparent: Any, target: str, tmp_path: Path
) -> None:
    path = write(image, tmp_path / "source", "PNG", transparency=transparent)
    run(CONVERT, path, tmp_path / "target", format=target)
    with Image.open(tmp_path / "target") as done:
        assert done.mode != "RGB"
        alpha = done.convert("RGBA").getchannel("A")
    assert (alpha.getpixel((5, 12)), alpha.getpixel((35, 12))) == (255, 0)


@pytest.mark.parametrize("target", TARGETS)
def test_a_palette_with_shades_of_alpha_keeps_them_where_it_can(target: str, tmp_path: Path) -> None:
    image = halves("RGB", (0, 0, 0), (255, 255, 255)).quantize(4)
    shades = bytes(128 if index == image.getpixel((5, 5)) else 255 for index in range(4))
    path = write(image, tmp_path / "source", "PNG", transparency=shades)
    run(CONVERT, path, tmp_path / "target", format=target)
    seen = as_seen(tmp_path / "target")
    # Half of black on white; GIF knows only all or nothing.
    assert grey_of(seen, 5) == pytest.approx(0 if target == "gif" else 127, abs=3)


@pytest.mark.parametrize("target", ["jpg", "bmp", "webp", "gif"])
def test_16_bits_are_scaled_to_8_and_not_clipped(target: str, tmp_path: Path) -> None:
    path = write(deep("I;16", 10000, 40000), tmp_path / "source", "PNG")
    run(CONVERT, path, tmp_path / "target", format=target)
    seen = as_seen(tmp_path / "target")
    assert grey_of(seen, 5) == pytest.approx(39, abs=3)
    assert grey_of(seen, 35) == pytest.approx(156, abs=3)


@pytest.mark.parametrize("source", ["grey-16", "grey-32"])
def test_16_bits_stay_where_the_format_has_them(source: str, tmp_path: Path) -> None:
    picture_format, draw = SOURCES[source]
    path = write(draw(), tmp_path / "source", picture_format)
    run(CONVERT, path, tmp_path / "target", format="png")
    with Image.open(tmp_path / "target") as image:
        assert (image.getpixel((5, 12)), image.getpixel((35, 12))) == (10000, 40000)


@pytest.mark.parametrize(
    ("dark", "light", "greys"),
    [(0.0, 1.0, (0, 255)), (0.0, 200.0, (0, 200)), (-4.0, 4.0, (0, 255)), (-3.0, -3.0, (0, 0))],
)
def test_fractions_keep_their_meaning_or_are_stretched(
    dark: float, light: float, greys: tuple[int, int], tmp_path: Path
) -> None:
    path = write(deep("F", dark, light), tmp_path / "source", "TIFF")
    run(CONVERT, path, tmp_path / "target", format="png")
    with Image.open(tmp_path / "target") as image:
        assert (image.getpixel((5, 12)), image.getpixel((35, 12))) == greys


def test_quality_counts(tmp_path: Path) -> None:
    noise = Image.effect_noise((100, 100), 80)
    path = write(noise, tmp_path / "source.png", "PNG")
    sizes = []
    for quality in (10, 90):
        run(CONVERT, path, tmp_path / "target.jpg", format="jpg", quality=quality)
        sizes.append((tmp_path / "target.jpg").stat().st_size)
    assert sizes[0] * 2 < sizes[1]


@pytest.mark.parametrize("target", ["png", "jpg", "webp", "tiff"])
def test_an_icc_profile_stays_where_there_is_a_place_for_it(target: str, tmp_path: Path) -> None:
    path = write(halves(), tmp_path / "source", "JPEG", icc_profile=SRGB)
    run(CONVERT, path, tmp_path / "target", format=target)
    with Image.open(tmp_path / "target") as image:
        assert image.info["icc_profile"] == SRGB


@pytest.mark.parametrize(("source", "target"), [("cmyk", "png"), ("grey-alpha", "webp"), ("lab", "jpg")])
def test_a_profile_for_other_colours_than_the_outputs_is_not_kept(
    source: str, target: str, tmp_path: Path
) -> None:
    picture_format, draw = SOURCES[source]
    colours = {"cmyk": b"CMYK", "grey-alpha": b"GRAY", "lab": b"Lab "}[source]
    profile = SRGB[:16] + colours + SRGB[20:]  # as unusable as profiles get: it is sRGB's under another name
    path = write(draw(), tmp_path / "source", picture_format, icc_profile=profile)
    run(CONVERT, path, tmp_path / "target", format=target)
    with Image.open(tmp_path / "target") as image:
        assert "icc_profile" not in image.info


def test_colours_are_converted_to_srgb_where_there_is_no_place_for_their_profile(tmp_path: Path) -> None:
    swapped = swapped_primaries()
    image = halves("RGB", (255, 0, 0), (255, 0, 0))
    path = write(image, tmp_path / "source", "PNG", icc_profile=swapped)
    run(CONVERT, path, tmp_path / "target", format="bmp")
    red, green, _ = as_seen(tmp_path / "target").getpixel((5, 5))  # type: ignore[misc]  # RGB has three
    assert green > 200 > 100 > red


def swapped_primaries() -> bytes:
    """A profile in which red and green have changed places, so that its use can be seen."""
    names = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}
    (count,) = struct.unpack_from(">I", SRGB, 128)
    profile = bytearray(SRGB)
    for at in range(132, 132 + 12 * count, 12):
        tag = bytes(profile[at : at + 4])
        profile[at : at + 4] = names.get(tag, tag)
    return bytes(profile)


# --- resizing


@pytest.mark.parametrize("source", SOURCES)
def test_every_kind_of_picture_is_resized_in_its_own_format(source: str, tmp_path: Path) -> None:
    picture_format, draw = SOURCES[source]
    path = write(draw(), tmp_path / "source.jpg", picture_format)
    output = run(RESIZE, path, tmp_path / "target.jpg", width=20, height=30)
    assert output == {
        "processed_files": [str(tmp_path / "target.jpg")],
        "dimensions": {"width": 20, "height": 30},
    }
    with Image.open(tmp_path / "target.jpg") as image:
        assert image.format == picture_format
        assert image.size == (20, 30)
    seen = as_seen(tmp_path / "target.jpg")
    assert grey_of(seen, 17) - grey_of(seen, 2) > 60


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(20, 20, (20, 12)), (400, 12, (20, 12)), (400, 400, (40, 24)), (1, 1, (1, 1))],
)
def test_with_the_aspect_ratio_it_is_shrunk_to_fit_inside(
    width: int, height: int, size: tuple[int, int], tmp_path: Path
) -> None:
    path = write(halves(), tmp_path / "source", "PNG")
    output = run(RESIZE, path, tmp_path / "target", width=width, height=height, maintain_aspect_ratio=True)
    assert output["dimensions"] == {"width": size[0], "height": size[1]}
    with Image.open(tmp_path / "target") as image:
        assert image.size == size


@pytest.mark.parametrize("picture_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_that_lies_on_its_side_is_turned_before_it_is_fitted(
    picture_format: str, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise: left becomes top
    path = write(halves(), tmp_path / "source", picture_format, exif=exif)
    output = run(RESIZE, path, tmp_path / "target", width=24, height=24, maintain_aspect_ratio=True)
    assert output["dimensions"] == {"width": 14, "height": 24}
    with Image.open(tmp_path / "target") as image:
        assert image.getexif().get(0x0112, 1) == 1
        assert grey_of(image.crop((0, 20, 14, 24)), 7) - grey_of(image.crop((0, 0, 14, 4)), 7) > 60


def test_black_and_white_is_resized_with_a_real_filter(tmp_path: Path) -> None:
    checked = Image.new("1", (64, 64))
    for x in range(64):
        for y in range(x % 2, 64, 2):
            checked.putpixel((x, y), 1)
    path = write(checked, tmp_path / "source", "PNG")
    run(RESIZE, path, tmp_path / "target", width=8, height=8)
    assert as_seen(tmp_path / "target").getpixel((4, 4)) == pytest.approx(127, abs=10)


def test_16_bits_survive_resizing(tmp_path: Path) -> None:
    path = write(deep("I;16", 10000, 65535), tmp_path / "source", "PNG")
    run(RESIZE, path, tmp_path / "target", width=20, height=12)
    with Image.open(tmp_path / "target") as image:
        assert (image.getpixel((1, 5)), image.getpixel((18, 5))) == (10000, 65535)


# --- several files


def test_several_files_are_done_in_order_and_reported_one_by_one(tmp_path: Path) -> None:
    sources = [write(halves(), tmp_path / f"{number}.png", "PNG") for number in range(4)]
    targets = [tmp_path / f"out-{number}.png" for number in range(4)]
    reported: list[int] = []
    params = ImageResizeParams(
        width=2, height=3, input_paths=list(map(str, sources)), output_paths=list(map(str, targets))
    )
    job = Job(job_id="j", task_type="image_resize", params={})
    result = asyncio.run(ImageResizeTask().execute(job, params, reported.append))
    assert reported == [25, 50, 75, 100]
    assert result["task_output"]["processed_files"] == list(map(str, targets))
    assert all(target.exists() for target in targets)


@pytest.mark.parametrize("task", [RESIZE, CONVERT])
def test_a_job_without_files_is_bad_input(task: ComputeModule[Any]) -> None:
    with pytest.raises(BadInputError, match="The job has 0 inputs and 0 outputs"):
        run(task, [], [], width=1, height=1, format="png")


# --- what is not trusted


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def encoded(picture_format: str) -> bytes:
    buffer = BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(buffer, picture_format)
    return buffer.getvalue()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"this is no picture",
        POSTSCRIPT,
        encoded("PNG")[:-2000],
        encoded("JPEG")[:500],
        encoded("WEBP")[:300],
        encoded("GIF")[:20],
        encoded("TIFF")[:1000],
        encoded("PNG").replace(b"IDAT", b"IDAX"),
        b"II+\0\x08\0\0\0" + b"\xff" * 7 + b"\x7f",
        encoded("ICO"),
    ],
    ids=["empty", "text", "eps", "png", "jpeg", "webp", "gif", "tiff", "damaged", "far-offset", "ico"],
)
@pytest.mark.parametrize("task", [RESIZE, CONVERT], ids=["resize", "convert"])
def test_what_is_no_whole_picture_is_bad_input_and_named(
    content: bytes, task: ComputeModule[Any], tmp_path: Path
) -> None:
    (tmp_path / "holiday.png").write_bytes(content)
    with pytest.raises(BadInputError, match=r"^holiday\.png ") as caught:
        run(task, tmp_path / "holiday.png", tmp_path / "target", width=5, height=5, format="png")
    assert str(tmp_path) not in str(caught.value)
    assert not (tmp_path / "target").exists()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(10000, 5001), (12000, 12000), (60000, 60000)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(*size))
    with pytest.raises(BadInputError, match=r"bomb\.png has .* the limit is 50000000 in all"):
        run(CONVERT, tmp_path / "bomb.png", tmp_path / "target", format="png")


def test_a_size_that_would_be_a_bomb_is_not_made(tmp_path: Path) -> None:
    path = write(halves(), tmp_path / "cat.png", "PNG")
    with pytest.raises(BadInputError, match=r"cat\.png, resized, has 65535 x 65535 pixels"):
        run(RESIZE, path, tmp_path / "target", width=65535, height=65535)


@pytest.mark.parametrize(("target", "width"), [("webp", 20000), ("jpg", 65501), ("gif", 65536)])
def test_a_size_that_the_format_cannot_hold_is_bad_input(target: str, width: int, tmp_path: Path) -> None:
    path = write(Image.new("L", (width, 1)), tmp_path / "long.png", "PNG")
    with pytest.raises(BadInputError, match=rf"target cannot be written as {TARGETS[target]}"):
        run(CONVERT, path, tmp_path / "target", format=target)


def test_a_file_that_is_not_there_is_no_bad_input(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run(CONVERT, tmp_path / "gone.png", tmp_path / "target", format="png")


def test_a_disk_that_is_full_is_no_bad_input() -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at below
        pictures.save_picture(Image.effect_noise((300, 300), 90), Path("/dev/full"), "BMP")
    assert caught.value.errno == errno.ENOSPC


# --- schemas


@pytest.mark.parametrize("field", ["width", "height"])
@pytest.mark.parametrize("value", [0, -1, 65536, "wide", 1.5, None])
def test_a_size_that_cannot_be_is_refused_by_the_schema(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        ImageResizeParams.model_validate({"width": 1, "height": 1, field: value})
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]


@pytest.mark.parametrize(
    ("asked", "extension"), [("JPEG", "jpg"), ("jpg", "jpg"), ("Png", "png"), ("tiff", "tiff")]
)
def test_a_format_may_be_asked_for_in_any_case(asked: str, extension: str) -> None:
    params = ImageConversionParams.model_validate({"format": asked})
    assert (params.format, params.extension) == (asked.lower(), extension)


@pytest.mark.parametrize(
    "asked",
    [{"format": "eps"}, {"format": 7}, {"format": "png", "quality": 0}, {"format": "png", "quality": 101}],
)
def test_a_format_or_quality_that_cannot_be_is_refused_by_the_schema(asked: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ImageConversionParams.model_validate(asked)


# --- from upload to output


@pytest.mark.parametrize(
    ("task", "form", "upload", "output"),
    [
        (RESIZE, {"width": "8", "height": "6"}, "cat.png", "resized_cat.png"),
        (RESIZE, {"width": "8", "height": "6"}, "Ä b.PNG", "resized_Ä b.PNG"),
        (CONVERT, {"format": "JPEG"}, "cat.png", "converted_cat.jpg"),
        (CONVERT, {"format": "tiff", "quality": "1"}, "a.b.png", "converted_a.b.tiff"),
        (CONVERT, {"format": "webp"}, "no-extension", "converted_no-extension.webp"),
    ],
)
def test_what_is_uploaded_can_be_done_and_comes_out_under_its_fixed_name(
    task: ComputeModule[Any], form: dict[str, str], upload: str, output: str, tmp_path: Path
) -> None:
    repository, storage = MemoryRepository(), LocalFileStorage(tmp_path / "media")
    app = FastAPI()
    app.include_router(create_master_router(repository, storage, lambda: None), prefix="/api")
    picture = write(halves(), tmp_path / "picture", "PNG")
    with TestClient(app) as client, picture.open("rb") as file:
        answer = client.post(f"/api/jobs/{task.task_type}", data=form, files={"file": (upload, file)})
    assert answer.json() == {"job_id": repository.only_job.job_id, "status": "queued"}
    params = task.get_schema().model_validate(repository.only_job.params)
    result = asyncio.run(task.execute(repository.only_job, params))
    (done,) = result["task_output"]["processed_files"]
    assert Path(done) == storage.get_output_path(repository.only_job.job_id) / output
    assert as_seen(Path(done)).size == ((8, 6) if task is RESIZE else SIZE)


def test_the_packages_offer_their_tasks_and_parameters() -> None:
    from cl_ml_tools.plugins import image_conversion, image_resize

    assert image_resize.ImageResizeTask().get_schema() is image_resize.ImageResizeParams
    assert image_conversion.ImageConversionTask().get_schema() is image_conversion.ImageConversionParams
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        image_resize.Nothing  # noqa: B018
