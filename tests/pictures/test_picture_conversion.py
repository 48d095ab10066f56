"""What is kept and what is given up on the way to another format."""

import errno
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_pictures import jpeg_segments
from picture_jobs import only_report, run
from picture_kinds import SRGB, SWAPPED, exif, image, scene, see_through
from PIL import Image, ImageCms, PngImagePlugin, features
from pydantic import ValidationError

from cl_ml_tools import pictures
from cl_ml_tools.errors import BadInputError
from cl_ml_tools.plugins.image_conversion.schema import ImageConversionParams
from cl_ml_tools.plugins.image_conversion.task import ImageConversionTask

CONVERT = ImageConversionTask()
TARGETS = {
    "png": "PNG",
    "jpg": "JPEG",
    "webp": "WEBP",
    "gif": "GIF",
    "bmp": "BMP",
    "tiff": "TIFF",
    "avif": "AVIF",
}


def convert(
    picture: Image.Image | Path, target: str, tmp_path: Path, **asked: Any
) -> tuple[Image.Image, dict[str, Any]]:
    """Write the picture as PNG, or take the file, and convert it; returns the result, loaded, and its report."""
    if isinstance(picture, Image.Image):
        picture.save(tmp_path / "source.png", **asked.pop("save", {}))
        picture = tmp_path / "source.png"
    report = only_report(run(CONVERT, picture, tmp_path / f"out.{target}", format=target, **asked))
    with Image.open(report["output_path"]) as file:
        file.load()
        return file.copy(), report


# --- transparency


@pytest.mark.parametrize(
    ("background", "colour"), [(None, 255), ("#808080", 128), ("Black", 0), ("#f00", (255, 0, 0))]
)
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_goes_onto_the_background(
    mode: str, background: Any, colour: Any, tmp_path: Path
) -> None:
    hidden = Image.new(mode, (20, 20), (90, 0) if mode == "LA" else (255, 0, 255, 0))
    done, report = convert(hidden, "bmp", tmp_path, **({"background": background} if background else {}))
    assert done.mode == ("L" if mode == "LA" and isinstance(colour, int) else "RGB")
    expected = colour if done.mode == "L" or isinstance(colour, tuple) else (colour,) * 3
    assert done.getpixel((3, 3)) == expected
    if background is None:
        assert report["warnings"] == ["Transparency was replaced by the background: BMP has none."]


def test_a_background_that_was_asked_for_is_put_under_everything(tmp_path: Path) -> None:
    done, report = convert(image(see_through(scene()), "RGBA"), "png", tmp_path, background="navy")
    assert done.mode == "RGB"
    assert done.getpixel((59, 5)) == (0, 0, 128)
    assert report["warnings"] == []


@pytest.mark.parametrize("target", ["webp", "tiff", "gif", "png", "avif"])
@pytest.mark.parametrize(
    ("mode", "dark", "light"), [("RGB", (255, 0, 0), (0, 255, 0)), ("L", 90, 200)], ids=["colour", "grey"]
)
def test_a_colour_that_means_transparent_becomes_alpha(
    mode: str, dark: Any, light: Any, target: str, tmp_path: Path
) -> None:
    halves = Image.new(mode, (40, 24), light)
    halves.paste(dark, (0, 0, 20, 24))
    done, _ = convert(halves, target, tmp_path, save={"transparency": light})
    alpha = done.convert("RGBA").getchannel("A")
    assert (alpha.getpixel((5, 12)), alpha.getpixel((35, 12))) == (255, 0)


@pytest.mark.parametrize("target", TARGETS)
def test_a_palette_with_shades_of_alpha_keeps_them_where_it_can(target: str, tmp_path: Path) -> None:
    halves = Image.new("P", (40, 24), 1)
    halves.putpalette([0, 0, 0, 255, 255, 255])
    halves.paste(0, (0, 0, 20, 24))
    done, _ = convert(halves, target, tmp_path, save={"transparency": bytes([128, 255])})
    seen = Image.new("RGBA", done.size, "white")
    seen.alpha_composite(done.convert("RGBA"))
    # Half of black on white; GIF knows only all or nothing.
    assert seen.convert("L").getpixel((5, 12)) == pytest.approx(0 if target == "gif" else 127, abs=4)


def test_an_alpha_channel_of_which_nothing_is_transparent_costs_no_warning(tmp_path: Path) -> None:
    done, report = convert(Image.new("RGBA", (9, 9), (1, 2, 3, 255)), "jpg", tmp_path)
    assert (done.mode, report["warnings"]) == ("RGB", [])


# --- deep pictures


@pytest.mark.parametrize("target", ["jpg", "bmp", "webp", "gif", "avif"])
def test_16_bits_are_scaled_to_8_and_not_clipped(target: str, tmp_path: Path) -> None:
    halves = Image.fromarray(np.repeat(np.array([[10000] * 20 + [40000] * 20], np.uint16), 24, axis=0))
    done, report = convert(halves, target, tmp_path)
    assert done.convert("L").getpixel((5, 12)) == pytest.approx(39, abs=2)
    assert done.convert("L").getpixel((35, 12)) == pytest.approx(156, abs=2)
    assert "Deep grey was scaled to 8 bits." in report["warnings"]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("target", ["png", "tiff"])
def test_16_bits_stay_where_the_format_has_them(target: str, order: str, tmp_path: Path) -> None:
    halves = np.repeat(np.array([[10000] * 20 + [40000] * 20], f"{order}u2"), 24, axis=0)
    Image.fromarray(halves).save(tmp_path / "source.tif")
    done, report = convert(tmp_path / "source.tif", target, tmp_path)
    assert (done.getpixel((5, 12)), done.getpixel((35, 12))) == (10000, 40000)
    assert report["warnings"] == []


def test_16_bits_a_channel_are_told_to_have_become_8(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + struct.pack(">3H", 40000, 256, 65535) * 4 for _ in range(4))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    done, report = convert(tmp_path / "deep.png", "png", tmp_path)
    assert done.getpixel((1, 1)) == (156, 1, 255)
    assert report["warnings"] == ["16 bits a channel became 8."]


@pytest.mark.parametrize(
    ("dark", "light", "greys"),
    [
        (0.0, 1.0, (0, 255)),
        (0.0, 200.0, (0, 200)),
        (0.0, 40000.0, (0, 156)),
        (-4.0, 4.0, (0, 255)),
        (-3.0, -3.0, (0, 0)),
    ],
)
def test_fractions_keep_their_meaning_or_are_stretched(
    dark: float, light: float, greys: tuple[int, int], tmp_path: Path
) -> None:
    Image.fromarray(np.array([[dark, light]] * 2, np.float32)).save(tmp_path / "source.tif")
    done, _ = convert(tmp_path / "source.tif", "png", tmp_path)
    assert (done.getpixel((0, 0)), done.getpixel((1, 1))) == greys


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -3e38])
def test_fractions_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    for at in (0, 7, 11):
        values = np.ones((3, 4), np.float32)
        values.flat[at] = value
        Image.fromarray(values).save(tmp_path / "source.tif")
        with pytest.raises(BadInputError, match=r"source\.tif has values that are no numbers"):
            convert(tmp_path / "source.tif", "png", tmp_path)


# --- options


def test_quality_counts(tmp_path: Path) -> None:
    noise = Image.effect_noise((100, 100), 80)
    for target in ("jpg", "webp", "avif"):
        sizes = [convert(noise, target, tmp_path, quality=quality)[1]["bytes"] for quality in (10, 90)]
        assert sizes[0] * 2 < sizes[1]


def test_webp_can_be_lossless(tmp_path: Path) -> None:
    picture = image(scene(), "RGB")
    assert convert(picture, "webp", tmp_path, lossless=True)[0].tobytes() == picture.tobytes()
    assert convert(picture, "webp", tmp_path)[0].tobytes() != picture.tobytes()


def test_jpeg_can_be_progressive(tmp_path: Path) -> None:
    picture = image(scene(), "RGB")
    for progressive, marker in ((True, b"\xff\xc2"), (False, b"\xff\xc0")):
        _, report = convert(picture, "jpg", tmp_path, progressive=progressive)
        assert marker in Path(report["output_path"]).read_bytes()


@pytest.mark.parametrize(
    ("asked", "extension"), [("JPEG", "jpg"), ("jpg", "jpg"), ("Png", "png"), ("AVIF", "avif")]
)
def test_a_format_may_be_asked_for_in_any_case(asked: str, extension: str) -> None:
    params = ImageConversionParams.model_validate({"format": asked})
    assert (params.format, params.extension) == (asked.lower(), extension)


@pytest.mark.parametrize(
    "asked",
    [
        {"format": "eps"},
        {"format": 7},
        {"format": "png", "quality": 0},
        {"format": "png", "background": "puce"},
    ],
)
def test_what_cannot_be_asked_for_is_refused_by_the_schema(asked: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ImageConversionParams.model_validate(asked)


# --- profiles


@pytest.mark.parametrize("target", ["png", "jpg", "webp", "tiff", "avif"])
def test_an_icc_profile_stays_where_there_is_a_place_for_it(target: str, tmp_path: Path) -> None:
    done, _ = convert(image(scene(), "RGB"), target, tmp_path, save={"icc_profile": SRGB})
    assert done.info["icc_profile"] == SRGB


@pytest.mark.parametrize(("mode", "colours"), [("CMYK", b"CMYK"), ("LA", b"GRAY"), ("LAB", b"Lab ")])
def test_a_profile_that_cannot_be_used_is_not_kept(mode: str, colours: bytes, tmp_path: Path) -> None:
    # As unusable as profiles get: it is sRGB's under another name.
    profile = SRGB[:16] + colours + SRGB[20:]
    picture = Image.new(mode, (9, 9), (10, 20, 30, 40)[: len(mode)])
    picture.save(tmp_path / "source.tif", icc_profile=profile)
    done, _ = convert(tmp_path / "source.tif", "webp", tmp_path)
    assert "icc_profile" not in done.info


def test_colours_are_converted_to_srgb_where_there_is_no_place_for_their_profile(tmp_path: Path) -> None:
    done, report = convert(Image.new("RGB", (9, 9), "red"), "bmp", tmp_path, save={"icc_profile": SWAPPED})
    red, green, _ = done.getpixel((5, 5))  # type: ignore[misc]  # RGB has three
    assert green > 200 > 100 > red
    assert report["warnings"] == ["The colours were converted to sRGB: BMP has no place for their profile."]


def test_grey_is_converted_by_its_profile_too(tmp_path: Path) -> None:
    # Linear light: half of it is much lighter than half of sRGB's numbers.
    linear = grey_profile(gamma=1.0)
    for target in ("bmp", "webp"):
        done, _ = convert(Image.new("L", (9, 9), 128), target, tmp_path, save={"icc_profile": linear})
        assert done.convert("L").getpixel((4, 4)) == pytest.approx(188, abs=3)


def grey_profile(gamma: float) -> bytes:
    """A display profile for grey with this gamma, by the specification of the ICC."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    tags = [(b"wtpt", white), (b"kTRC", curve)]
    table, body, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags:
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", offset + len(body), b"none", 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">iii", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + body


def test_the_profile_of_a_cmyk_picture_goes_with_it_to_another_cmyk_format(tmp_path: Path) -> None:
    profile = SRGB[:16] + b"CMYK" + SRGB[20:]
    Image.new("CMYK", (9, 9)).save(tmp_path / "source.jpg", icc_profile=profile)
    done, report = convert(tmp_path / "source.jpg", "tiff", tmp_path)
    assert (done.mode, done.info["icc_profile"], report["warnings"]) == ("CMYK", profile, [])


def test_the_grey_profile_that_the_test_builds_is_one() -> None:
    assert ImageCms.getOpenProfile(BytesIO(grey_profile(1.0))).profile.xcolor_space.strip() == "GRAY"


# --- metadata


@pytest.mark.parametrize("target", ["png", "jpg", "webp", "tiff", "avif"])
@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tiff"])
def test_of_the_metadata_the_rights_stay_and_all_else_goes(
    extension: str, target: str, tmp_path: Path
) -> None:
    data = exif(1, artist="Zoë Müller", copyright="© 2024 Zoë")
    data[0x010F], data[0x0132] = "Camera", "2024:01:01 00:00:00"
    data.get_ifd(0x8825)[1] = "N"
    for tag in (0x013B, 0x8298):
        data[tag] = data[tag].encode("latin-1")
    image(scene(), "RGB").save(tmp_path / f"source.{extension}", exif=data)
    _, report = convert(tmp_path / f"source.{extension}", target, tmp_path)
    with Image.open(report["output_path"]) as file:
        kept = file.getexif()
        assert (kept[0x013B], kept[0x8298]) == ("Zoë Müller", "© 2024 Zoë")
        assert not {0x010F, 0x0132, 0x8825} & set(kept)
    assert report["warnings"] == []


def test_the_rights_of_a_png_are_read_from_its_text(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "Ada")
    text.add_itxt("Copyright", "© Ада")
    text.add_text("Comment", "secret")
    _, report = convert(image(scene(), "RGB"), "jpg", tmp_path, save={"pnginfo": text})
    content = Path(report["output_path"]).read_bytes()
    assert b"Ada" in content
    assert "© Ада".encode() in content
    assert b"secret" not in content


def test_the_rights_are_read_from_iptc_and_from_xmp_where_exif_has_none(tmp_path: Path) -> None:
    def dataset(number: int, text: str) -> bytes:
        return b"\x1c\x02" + bytes([number]) + struct.pack(">H", len(text.encode())) + text.encode()

    iptc = dataset(5, "a title") + dataset(80, "Ada") + dataset(116, "© Ada")
    resource = b"8BIM" + struct.pack(">H", 0x0404) + bytes(2) + struct.pack(">I", len(iptc)) + iptc
    xmp = (
        b"<x:xmpmeta><rdf:RDF><rdf:Description><dc:creator><rdf:Seq><rdf:li>Bob</rdf:li></rdf:Seq></dc:creator>"
        b"<dc:rights>\n<rdf:Alt>\n<rdf:li xml:lang='x-default'>Bob &amp; Co</rdf:li></rdf:Alt></dc:rights>"
        b"</rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    segments = {
        "iptc": (0xED, b"Photoshop 3.0\0" + resource),
        "xmp": (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp),
    }
    for name, segment in segments.items():
        (tmp_path / f"{name}.jpg").write_bytes(jpeg_segments(segment))
    image(scene(), "RGB").save(tmp_path / "iptc.tif", tiffinfo={33723: iptc})
    for name, rights in (
        ("iptc.jpg", ("Ada", "© Ada")),
        ("iptc.tif", ("Ada", "© Ada")),
        ("xmp.jpg", ("Bob", "Bob & Co")),
    ):
        _, report = convert(tmp_path / name, "webp", tmp_path)
        with Image.open(report["output_path"]) as file:
            assert (file.getexif()[0x013B], file.getexif()[0x8298]) == rights
            assert "xmp" not in file.info


def test_where_there_is_no_place_for_the_rights_a_comment_or_a_warning_is_left(tmp_path: Path) -> None:
    image(scene(), "RGB").save(tmp_path / "source.jpg", exif=exif(artist="Ada", copyright="Ada 2024"))
    done, _ = convert(tmp_path / "source.jpg", "gif", tmp_path)
    assert done.info["comment"] == b"Artist: Ada; Copyright: Ada 2024"
    _, report = convert(tmp_path / "source.jpg", "bmp", tmp_path)
    assert report["warnings"] == [
        "The names of the author and the owner of the copyright are lost: BMP has no place."
    ]


@pytest.mark.parametrize("damage", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\x7f"])
def test_damaged_exif_data_costs_nothing_but_itself(damage: bytes, tmp_path: Path) -> None:
    image(scene(), "RGB").save(tmp_path / "source.jpg", exif=damage)
    done, _ = convert(tmp_path / "source.jpg", "png", tmp_path)
    assert done.size == (60, 40)


# --- animations


@pytest.mark.parametrize("plays", [0, 1, 2, 5])
@pytest.mark.parametrize("source", ["gif", "png", "webp"])
@pytest.mark.parametrize("target", ["gif", "png", "webp"])
def test_an_animation_is_shown_as_often_as_before(
    source: str, target: str, plays: int, tmp_path: Path
) -> None:
    frames = [image(scene(number), "RGB") for number in range(2)]
    options: dict[str, Any] = {"loop": plays} if source != "gif" else {"loop": plays - 1} if plays > 1 else {}
    if source == "gif" and plays == 0:
        options = {"loop": 0}
    frames[0].save(
        tmp_path / f"source.{source}", save_all=True, append_images=frames[1:], duration=80, **options
    )
    _, report = convert(tmp_path / f"source.{source}", target, tmp_path)
    with pictures.open_picture(Path(report["output_path"])) as picture:
        assert (picture.plays, picture.frame_count) == (plays, 2)
    with Image.open(report["output_path"]) as file:
        loop = file.info.get("loop")
    assert loop == ((plays - 1 if plays > 1 else None if plays else 0) if target == "gif" else plays)


@pytest.mark.parametrize("target", ["gif", "png", "webp"])
def test_what_a_later_frame_leaves_free_does_not_show_the_one_before(target: str, tmp_path: Path) -> None:
    whole, half, nothing = (
        Image.new("RGBA", (20, 20), "red"),
        Image.new("RGBA", (20, 20)),
        Image.new("RGBA", (20, 20)),
    )
    half.paste("red", (10, 0, 20, 20))
    whole.save(tmp_path / "a.png", save_all=True, append_images=[half, nothing, whole], duration=80)
    _, report = convert(tmp_path / "a.png", target, tmp_path)
    with pictures.open_picture(Path(report["output_path"])) as picture:
        frames = [frame.image.convert("RGBA") for frame in picture.frames()]
    seen = [(frame.getpixel((3, 3))[3], frame.getpixel((15, 3))[3]) for frame in frames]  # type: ignore[index]  # RGBA
    assert seen == [(255, 255), (0, 255), (0, 0), (255, 255)]


def test_the_default_picture_of_an_apng_is_no_frame(tmp_path: Path) -> None:
    default, *frames = [Image.new("RGB", (20, 20), colour) for colour in ("white", "red", "blue")]
    default.save(tmp_path / "a.png", save_all=True, append_images=frames, default_image=True, duration=50)
    done, report = convert(tmp_path / "a.png", "webp", tmp_path)
    assert report["frames"] == 2
    assert done.convert("RGB").getpixel((3, 3))[0] > 240  # type: ignore[index]  # RGB has three
    still, _ = convert(tmp_path / "a.png", "bmp", tmp_path)
    assert still.getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("target", ["gif", "png", "webp"])
def test_frames_that_are_alike_are_joined_and_it_is_told(target: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "red", "blue", "blue")]
    pages = tmp_path / "a.tif"
    frames[0].save(pages, save_all=True, append_images=frames[1:])
    _, report = convert(pages, target, tmp_path)
    expected = 2 if report["format"] in ("GIF", "PNG") else report["frames"]
    assert report["frames"] == expected
    told = f"4 frames became {report['frames']}: those that look like the one before are shown with it."
    assert (told in report["warnings"]) == (report["frames"] < 4)


def test_pages_of_different_sizes_are_centred_in_an_animation(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (40, 20), "red"), Image.new("L", (20, 40), 128)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    done, report = convert(tmp_path / "a.tif", "png", tmp_path)
    assert (done.size, done.mode, report["frames"]) == ((40, 40), "RGBA", 2)
    assert (done.getpixel((20, 2)), done.getpixel((20, 20))) == ((0, 0, 0, 0), (255, 0, 0, 255))


def test_frames_that_libwebp_cut_to_what_is_seen_are_still_transparent_around(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (40, 40)) for _ in range(2)]
    for frame, colour in zip(frames, ("red", "blue"), strict=True):
        frame.paste(colour, (10, 10, 30, 30))
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=80)
    for target in ("png", "webp"):
        done, _ = convert(tmp_path / "a.webp", target, tmp_path)
        assert done.mode == "RGBA"
        assert done.getpixel((2, 2))[3] == 0  # type: ignore[index]  # RGBA has four


def test_the_second_picture_of_a_phones_jpeg_is_told_of(tmp_path: Path) -> None:
    picture = image(scene(), "RGB")
    picture.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    done, report = convert(tmp_path / "a.jpg", "png", tmp_path)
    assert done.size == (60, 40)
    assert report["warnings"] == ["The file has more than one picture; the first was taken."]


# --- what cannot be written


@pytest.mark.parametrize(("target", "width"), [("webp", 20000), ("jpg", 65501), ("gif", 65536)])
def test_a_size_that_the_format_cannot_hold_is_bad_input(target: str, width: int, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=rf"out\.{target} cannot be written as {TARGETS[target]}"):
        convert(Image.new("L", (width, 1)), target, tmp_path)
    assert not (tmp_path / f"out.{target}").exists()


def test_avif_without_an_encoder_says_what_to_ask_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "check", lambda _: False)
    with pytest.raises(BadInputError, match="the Pillow of this worker has no AVIF"):
        convert(image(scene(), "RGB"), "avif", tmp_path)


def test_a_file_that_is_not_there_is_no_bad_input(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "gone.png", "png", tmp_path)


def test_a_disk_that_is_full_is_no_bad_input() -> None:
    how = pictures.Encoding(pictures.FORMATS["BMP"])
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at below
        pictures.save_picture(Image.effect_noise((300, 300), 90), Path("/dev/full"), how)
    assert caught.value.errno == errno.ENOSPC
