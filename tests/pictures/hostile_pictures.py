"""Files that are sent to break something, made here."""

import re
import struct
import zlib
from collections.abc import Callable
from io import BytesIO

from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *parts: bytes, pixels: bytes = b"\0", colour: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return PNG + header + b"".join(parts) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def gif(width: int, height: int, frames: int, frame_size: tuple[int, int] = (1, 1)) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    frame = b"\x21\xf9\x04\0\x01\0\0\0,\0\0\0\0" + struct.pack("<HHB", *frame_size, 0) + b"\x02\x02\x44\x01\0"
    return head + frame * frames + b";"


def encoded(picture_format: str, size: tuple[int, int] = (64, 64), **options: object) -> bytes:
    buffer = BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(buffer, picture_format, **options)
    return buffer.getvalue()


def jpeg_segments(*segments: tuple[int, bytes]) -> bytes:
    """A small JPEG with these segments behind its first two bytes."""
    added = b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data for marker, data in segments
    )
    whole = encoded("JPEG")
    return whole[:2] + added + whole[2:]


def exif_of_shared_tags() -> bytes:
    """EXIF data of 2700 tags that are the same half of it."""
    tags = b"".join(struct.pack("<HHII", 0x9A00 + number, 7, 32_000, 32_500) for number in range(2700))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2700) + tags + bytes(65_000 - 16 - len(tags))


def jpeg_of_many_scans(scans: int) -> bytes:
    """A large progressive JPEG whose last scan, which says nothing new of 49 megapixels, is repeated."""
    buffer = BytesIO()
    Image.new("L", (7000, 7000), 90).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * scans + b"\xff\xd9"


def tiff(*directories: list[tuple[int, int, int, int]], is_circle: bool = False, tail: bytes = b"") -> bytes:
    """Directories of (tag, type, count, value), one behind the other."""
    data, position = b"II*\0" + struct.pack("<I", 8), 8
    for number, entries in enumerate(directories):
        size = 2 + 12 * len(entries) + 4
        following = position + size if number + 1 < len(directories) else 8 if is_circle else 0
        data += struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        data += struct.pack("<I", following)
        position += size
    return data + tail


def tiff_page(width: int = 8, height: int = 8) -> list[tuple[int, int, int, int]]:
    return [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (279, 4, 1, 64),
    ]


def tiff_of_many_tiles() -> bytes:
    count = 2_000_000
    entries = [
        *tiff_page(5000, 5000)[:4],
        (322, 4, 1, 1),
        (323, 4, 1, 1),
        (324, 4, count, 200),
        (325, 4, 1, 1),
    ]
    return tiff(entries, tail=bytes(200 + 4 * count))


def tiff_of_shared_tags() -> bytes:
    """A compressed TIFF with 3000 tags that are the same ten megabytes: libtiff reads each of them."""
    whole, size = encoded("TIFF", compression="tiff_lzw"), 10_000_000
    (place,) = struct.unpack_from("<I", whole, 4)
    (count,) = struct.unpack_from("<H", whole, place)
    entries = [struct.unpack_from("<HHII", whole, place + 2 + 12 * number) for number in range(count)]
    entries += [(0xA000 + number, 7, size, 8) for number in range(3000)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    whole += bytes(size + len(whole) % 2)
    return whole[:4] + struct.pack("<I", len(whole)) + whole[8:] + directory + bytes(4)


def tiff_with_numbers(tag: int, kind: int, size: int) -> bytes:
    """A TIFF in which this tag has five million numbers."""
    entries = [entry for entry in tiff_page() if entry[0] != tag] + [(tag, kind, 5_000_000, 200)]
    return tiff(sorted(entries), tail=bytes(200 + size * 5_000_000))


def tiff_tile(width: int, height: int) -> bytes:
    tile = [(259, 3, 1, 5), (322, 4, 1, width), (323, 4, 1, height), (324, 4, 1, 8), (325, 4, 1, 64)]
    return tiff(sorted([*tiff_page()[:4], *tile]), tail=bytes(1000))


def avif_that_says(width: int, height: int, real: tuple[int, int] = (8000, 8000)) -> bytes:
    """An AVIF whose file and whose stream do not agree in their size."""
    buffer = BytesIO()
    Image.new("L", real, 90).save(buffer, "AVIF", speed=10, quality=10)
    box = b"ispe" + bytes(4)
    return buffer.getvalue().replace(box + struct.pack(">II", *real), box + struct.pack(">II", width, height))


def webp_header(width: int, height: int, frames: int = 0) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    parts = b"VP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0]) + canvas
    parts += b"ANIM" + struct.pack("<I", 6) + bytes(6)
    parts += (b"ANMF" + struct.pack("<I", 16) + bytes(16)) * frames
    return b"RIFF" + struct.pack("<I", len(parts) + 4) + b"WEBP" + parts


def bmp(width: int, height: int, compression: int, data: bytes) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024) + info + bytes(1024) + data


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(/etc/passwd) (r) file\nshowpage\n"
)
SVG = b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg><text>&x;</text></svg>'

HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"this is no picture",
    "one byte": lambda: b"\xff",
    "eps": lambda: POSTSCRIPT,
    "svg": lambda: SVG,
    "pdf": lambda: b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "ico": lambda: encoded("ICO"),
    "psd": lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 10, 10, 8, 3) + bytes(64),
    "png bomb, 144 megapixels": lambda: png(12000, 12000, pixels=bytes(12001 * 12000)),
    "png header of 65535 x 65535": lambda: png(65535, 65535),
    "png header of 2147483647 x 1": lambda: png(2**31 - 1, 1),
    "gif of 65535 x 65535": lambda: gif(65535, 65535, 1),
    "gif that grows to 65535 x 65535": lambda: gif(10, 10, 2, (65535, 65535)),
    "gif, 40 frames of 2000 x 2000": lambda: gif(2000, 2000, 40),
    "gif, 5000 frames of 1 x 1": lambda: gif(1, 1, 5000),
    "gif in a million blocks": lambda: gif(9, 9, 1)[:-3] + b"\x01\x44" * 1_000_000 + b"\0;",
    "gif with junk between its frames": lambda: gif(9, 9, 1)[:-1] + b"\x11" * 3_000_000 + gif(9, 9, 1)[19:],
    "gif and script": lambda: b"GIF89a/*" + bytes(5) + b"*/=alert(1);//",
    "jpeg header of 65535 x 65535": lambda: encoded("JPEG").replace(
        struct.pack(">HBHH", 17, 8, 64, 64), struct.pack(">HBHH", 17, 8, 65535, 65535)
    ),
    "jpeg of 1000 scans": lambda: jpeg_of_many_scans(1000),
    "jpeg with exif whose tags lie on each other": lambda: jpeg_segments((0xE1, exif_of_shared_tags())),
    "jpeg of 90 scans of 49 megapixels": lambda: jpeg_of_many_scans(80),
    "jpeg with junk between its parts": lambda: (
        encoded("JPEG")[:20] + bytes(30_000_000) + encoded("JPEG")[20:]
    ),
    "jpeg with megabytes of exif": lambda: jpeg_segments(*[(0xE1, b"Exif\0\0" + bytes(65000))] * 100),
    "webp canvas of 16383 x 16383": lambda: webp_header(16383, 16383),
    "webp canvas of 16777216 x 16777216": lambda: webp_header(2**24, 2**24),
    "webp that is larger than it says": lambda: (
        webp_header(10, 10)[:20] + bytes(4) + webp_header(10, 10)[24:30] + encoded("WEBP", (4000, 4000))[12:]
    ),
    "webp, 5000 frames": lambda: webp_header(1, 1, 5000),
    "tiff of 65535 x 65535": lambda: tiff(tiff_page(65535, 65535)),
    "tiff, 5000 pages": lambda: tiff(*[tiff_page()] * 5000),
    "tiff, 20 pages of 4 megapixels": lambda: tiff(*[tiff_page(2000, 2000)] * 20, tail=bytes(100)),
    "tiff of millions of tiles": tiff_of_many_tiles,
    "tiff whose tags lie on each other": tiff_of_shared_tags,
    "tiff with millions of sample sizes": lambda: tiff_with_numbers(258, 3, 2),
    "tiff with millions of fractions": lambda: tiff_with_numbers(282, 5, 8),
    "tiff with a tile of 900 megapixels": lambda: tiff_tile(30000, 30000),
    "avif that is larger than it says": lambda: avif_that_says(64, 64),
    "avif that says it has 900 megapixels": lambda: avif_that_says(30000, 30000, (64, 64)),
    "avif of 1001 frames": lambda: encoded(
        "AVIF",
        (2, 2),
        save_all=True,
        append_images=[Image.new("RGB", (2, 2), (n, 0, 0)) for n in range(1000)],
    ),
    "icns": lambda: encoded("ICNS"),
    "jpeg 2000": lambda: encoded("JPEG2000"),
    "tiff whose data lies beyond its end": lambda: b"II+\0\x08\0\0\0" + b"\xff" * 7 + b"\x7f",
    "tiff, big, wrong way round": lambda: b"MM\0+" + bytes(20),
    "png of 400000 chunks": lambda: png(9, 9, *[chunk(b"teSt", b"")] * 400_000),
    "png with many profiles": lambda: png(
        9, 9, *[chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**6)))] * 2000
    ),
    "png with a profile that is a bomb": lambda: png(
        9, 9, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8)))
    ),
    "png of 2000 million frames": lambda: png(9, 9, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
    "png of 900 frames that are not there": lambda: png(
        9, 9, chunk(b"acTL", struct.pack(">II", 900, 0)), pixels=bytes(90)
    ),
    "png with text that is a bomb": lambda: png(9, 9, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))),
    "bmp, large, run-length coded": lambda: bmp(60000, 800, 1, b"\1\0\0\0" * 800),
    "ppm as text, large": lambda: b"P3 6000 6000 255 " + b"1 " * 1000,
    "ppm as text, of comments": lambda: b"P3 1000 1000 255 " + b"#\n" * 400_000,
    "ppm whose header has no end": lambda: b"P6 " + b" " * 20_000_000,
    "cut png": lambda: encoded("PNG")[:-2000],
    "cut png of 49 megapixels": lambda: png(7000, 7000, pixels=bytes(7001 * 7000))[:-20000],
    "cut jpeg": lambda: encoded("JPEG")[:500],
    "cut webp": lambda: encoded("WEBP")[:300],
    "cut gif": lambda: encoded("GIF")[:20],
    "cut gif in its pixels": lambda: encoded("GIF")[:1500],
    "cut tiff": lambda: encoded("TIFF")[:1000],
    "cut avif": lambda: encoded("AVIF")[:400],
    "png whose pixels are said to take two gigabytes": lambda: re.sub(
        rb"....IDAT", b"\x7f\xff\xff\xffIDAT", png(9, 9, pixels=bytes(90)), flags=re.DOTALL
    ),
    "png without its pixels": lambda: encoded("PNG").replace(b"IDAT", b"IDAX"),
}
"""What has to be refused, by name."""
