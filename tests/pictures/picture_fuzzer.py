"""Pictures with damage, for as long as it is asked for: whatever is sent, only typed errors come back.

    python tests/pictures/picture_fuzzer.py --seconds 600 --keep DIRECTORY

Prints how many were sent. What gives any other error, crashes the process, or takes longer than a few seconds, lies
in the directory afterwards: `last` is the one that the process died of.
"""

import argparse
import faulthandler
import json
import logging
import os
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

from hostile_pictures import bmp, jpeg_segments
from picture_jobs import run
from picture_kinds import KINDS, SRGB, exif, image, scene
from PIL import Image, PngImagePlugin

from cl_ml_tools.errors import BadInputError
from cl_ml_tools.pictures import open_picture
from cl_ml_tools.registry import load_tasks

TASKS = load_tasks()
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("image_resize", {"width": 20, "height": 20, "mode": "fill"}),
    ("image_resize", {"width": 9}),
    *(("image_conversion", {"format": name}) for name in ("jpg", "png", "gif", "webp", "tiff", "bmp")),
    ("image_thumbnail", {"sizes": [16, 8]}),
    ("image_metadata", {"gps": True}),
    ("image_hash", {}),
    ("image_watermark", {"watermark_text": "a"}),
    ("contact_sheet", {"cell": 16}),
]
SLOW_SECONDS = 5
EXTREMES = [
    b"\xff" * 4,
    bytes(4),
    b"\x7f\xff\xff\xff",
    b"\0\0\xff\xff",
    b"\xff\xff\0\0",
    b"\0\0\0\1",
    b"\1\0\0\0",
]


def seeds() -> list[bytes]:
    """Whole pictures: the kinds of the matrix, and what else decoders have code of their own for."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS.values():
            path = Path(folder) / f"seed{kind.extension}"
            kind.write(path)
            found.append(path.read_bytes())
    plain = image(scene(), "RGB")
    data = exif(6, artist="Ada", copyright="Ada")
    data.get_ifd(0x8769)[0x829A] = 1 / 8
    data.get_ifd(0x8825)[2] = (52.0, 30.0, 0.0)
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "Ada", zip=True)
    text.add_itxt("Copyright", "Ada")
    ways: list[tuple[str, Image.Image, dict[str, Any]]] = [
        (
            "JPEG",
            plain,
            {"progressive": True, "exif": data, "icc_profile": SRGB, "comment": b"c", "dpi": (72, 72)},
        ),
        ("MPO", plain, {"save_all": True, "append_images": [plain]}),
        ("PNG", plain, {"pnginfo": text, "exif": data, "icc_profile": SRGB}),
        ("WEBP", plain, {"exif": data, "icc_profile": SRGB, "xmp": b"<x/>"}),
        ("AVIF", plain, {"exif": data, "icc_profile": SRGB}),
        ("AVIF", plain, {"save_all": True, "append_images": [plain.rotate(90)], "speed": 10}),
        *(
            ("TIFF", plain, {"compression": name})
            for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
        ),
        ("TIFF", plain.convert("1"), {"compression": "group4"}),
        ("TIFF", plain, {"tiffinfo": {322: 16, 323: 16}, "compression": "tiff_lzw"}),
        ("TIFF", plain, {"big_tiff": True}),
        ("GIF", plain, {"save_all": True, "append_images": [plain.transpose(Image.Transpose.ROTATE_180)]}),
        ("PPM", plain, {}),
        ("PPM", plain.convert("F"), {}),
        ("BMP", plain.convert("P"), {}),
    ]
    for picture_format, picture, options in ways:
        buffer = BytesIO()
        picture.save(buffer, picture_format, **options)
        found.append(buffer.getvalue())
    found += [bmp(8, 8, 1, b"\x08\1\0\0" * 8 + b"\0\1"), b"P3 4 4 255 " + b"1 2 3 " * 16]
    return [*found, jpeg_segments((0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\0\0\0\x08\x1c\x02\x50\0\3Ada"))]


def damaged(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """The picture with bytes changed, cut out, doubled, put in or taken from others, most often near its beginning."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 8])):
        at = rng.randrange(max(1, min(rng.choice([40, 200, 1000, len(data)]), len(data))))
        match rng.randrange(8):
            case 0 | 1:
                data[at : at + 1] = rng.randbytes(1)
            case 2:
                data[at : at + 1] = bytes([data[at] ^ 1 << rng.randrange(8)]) if at < len(data) else b""
            case 3:
                data[at : at + 4] = rng.choice(EXTREMES)
            case 4:
                del data[at : at + rng.randint(1, 64)]
            case 5:
                data[at:at] = data[at : at + rng.randint(1, 64)]
            case 6:
                other = rng.choice(others)
                start = rng.randrange(len(other))
                data[at:at] = other[start : start + rng.randint(1, 200)]
            case _:
                del data[max(at, 12) :]
    return with_true_checksums(bytes(data)) if rng.random() < 0.7 else bytes(data)


def with_true_checksums(data: bytes) -> bytes:
    """A damaged PNG of which every chunk says that it is whole: else hardly one is looked at."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    whole, at = bytearray(data), 8
    while at + 12 <= len(whole):
        (size,) = struct.unpack_from(">I", whole, at)
        if at + size + 12 > len(whole):
            break
        struct.pack_into(">I", whole, at + 8 + size, zlib.crc32(whole[at + 4 : at + 8 + size]))
        at += size + 12
    return bytes(whole)


def process(source: Path, out: Path, rng: random.Random) -> str:
    """Have three tasks do it; BadInputError is an answer, and what is written can be read again."""
    outcome = "refused"
    for name, asked in rng.sample(ASKED, 3):
        try:
            output = run(TASKS[name], source, out, **asked)
        except BadInputError:
            continue
        outcome = "done"
        json.dumps(output, allow_nan=False)
        for path in map(Path, output["processed_files"]):
            if name not in ("image_metadata", "image_hash"):
                with open_picture(path) as picture:
                    picture.first()
            path.unlink()
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, required=True)
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    logging.disable()
    faulthandler.enable()
    os.environ["CL_ML_TOOLS_MAX_PICTURE_PIXELS"] = "4000000"  # large ones are slow, and take the same ways
    resource.setrlimit(resource.RLIMIT_AS, (2_500_000_000,) * 2)
    rng, originals, outcomes, findings = random.Random(options.seed), seeds(), Counter[str](), 0
    end = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as folder:
        source, out = options.keep / "last", Path(folder) / "out.png"
        while time.monotonic() < end:
            source.write_bytes(damaged(rng.choice(originals), originals, rng))
            before = time.process_time()
            try:
                outcomes[process(source, out, rng)] += 1
                took = time.process_time() - before
                problem = f"took {took:.1f} s" if took > SLOW_SECONDS else ""
            except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
                problem = traceback.format_exc()
            if problem:
                findings += 1
                source.rename(options.keep / f"finding-{options.seed}-{findings}")
                print(f"finding {findings}: {problem}", flush=True)
    print(json.dumps({"pictures": outcomes.total(), **outcomes, "findings": findings}))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
