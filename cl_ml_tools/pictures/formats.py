"""The formats of files that are read and written, and what each can hold."""

from dataclasses import dataclass
from pathlib import Path

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

# Imported so that Pillow, asked for one of these formats, does not load all the others that it knows.
_PLUGINS = (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)


@dataclass(frozen=True, slots=True)
class PictureFormat:
    """A format of files.

    Attributes:
        name: as Pillow calls it.
        extensions: those of its files; the first is the one that new files get.
        modes: Pillow's modes that we write into it.
        max_side: the longest side in pixels.
        is_animated: whether it holds frames with durations.
        is_paged: whether it holds pages, each with a size of its own.
        has_profile: whether it holds an ICC profile.
        has_rights: whether it holds the names of the author and of the owner of the copyright.
    """

    name: str
    extensions: tuple[str, ...]
    modes: frozenset[str]
    max_side: int = 65535
    is_animated: bool = False
    is_paged: bool = False
    has_profile: bool = True
    has_rights: bool = True

    @property
    def holds_frames(self) -> bool:
        """Whether a file can have more than one picture."""
        return self.is_animated or self.is_paged

    @property
    def has_alpha(self) -> bool:
        """Whether a file can have shades of transparency, or at least transparent pixels."""
        return "RGBA" in self.modes

    @property
    def is_writable(self) -> bool:
        """Whether the Pillow that is installed can write it."""
        return self.name != "AVIF" or bool(features.check("avif"))

    def extension_for(self, mode: str) -> str:
        """The extension, with its dot, of a file with a picture in this mode of Pillow's."""
        if self.name == "PPM":
            return {"1": ".pbm", "L": ".pgm", "I": ".pgm", "F": ".pfm"}.get(mode, ".ppm")
        return self.extensions[0]

    def holds(self, size: tuple[int, int], *, has_alpha: bool) -> bool:
        """Whether a file can be written with a picture of this size, and with its transparency."""
        return self.is_writable and max(size) <= self.max_side and (self.has_alpha or not has_alpha)


def _format(name: str, extensions: str, modes: str, **rest: int | bool) -> PictureFormat:
    return PictureFormat(name, tuple(extensions.split()), frozenset(modes.split()), **rest)  # type: ignore[arg-type]


_ALL = [
    _format("PNG", ".png .apng", "1 L LA P RGB RGBA I;16", is_animated=True, max_side=2**31 - 1),
    _format("JPEG", ".jpg .jpeg .jpe .jfif", "L RGB CMYK", max_side=65500),
    _format("WEBP", ".webp", "RGB RGBA", is_animated=True, max_side=16383),
    _format("GIF", ".gif", "1 L P RGB RGBA", is_animated=True, has_profile=False),
    # BMP could hold alpha, but hardly anybody reads it.
    _format("BMP", ".bmp .dib", "1 L RGB", has_profile=False, has_rights=False),
    _format("TIFF", ".tiff .tif", "1 L LA RGB RGBA CMYK LAB I;16 I F", is_paged=True, max_side=2**31 - 1),
    _format(
        "PPM",
        ".ppm .pgm .pbm .pnm .pfm",
        "1 L RGB I F",
        has_profile=False,
        has_rights=False,
        max_side=2**31 - 1,
    ),
    # Longer sides can be written, but the library does not read them again.
    _format("AVIF", ".avif .avifs", "L RGB RGBA", is_animated=True, max_side=32768),
]

FORMATS = {entry.name: entry for entry in _ALL}
"""What is opened and written; EPS and others that can run or reach something are not."""


# Pillow's own list is there only after it has loaded all of its plugins.
_OTHER_EXTENSIONS = (
    ".arw .bw .cr2 .dds .dng .emf .eps .heic .heif .icns .ico .j2c .j2k .jp2 .jpf .jpx .jxl .mpo .nef .pcx .pdf "
    ".ps .psd .qoi .ras .raw .rgb .rgba .sgi .svg .tga .wmf .xbm .xpm"
)
_PICTURE_EXTENSIONS = {*_OTHER_EXTENSIONS.split(), *(suffix for entry in _ALL for suffix in entry.extensions)}


def nearest_format(wanted: PictureFormat, size: tuple[int, int], *, has_alpha: bool) -> PictureFormat:
    """``wanted``, or the format nearest to it that can hold a picture of this size, and its transparency."""
    candidates = [wanted]
    if wanted.name in ("JPEG", "WEBP", "AVIF"):
        candidates.append(FORMATS["WEBP"])
    fitting = (candidate for candidate in candidates if candidate.holds(size, has_alpha=has_alpha))
    return next(fitting, FORMATS["PNG"])


def named_for(path: Path, extension: str) -> Path:
    """``path`` with an extension that says what is in the file; its own when that says it too.

    Args:
        path: a file's path; what looks like an extension and is that of no picture belongs to its name.
        extension: with its dot.
    """
    suffix = path.suffix.lower()
    entry = next((entry for entry in _ALL if extension in entry.extensions), None)
    if entry is not None and suffix in entry.extensions and (entry.name != "PPM" or suffix == extension):
        return path
    return (
        path.with_suffix(extension)
        if suffix in _PICTURE_EXTENSIONS
        else path.with_name(path.name + extension)
    )


def with_label(path: Path, label: str) -> Path:
    """``path`` with a label behind its name, before its extension."""
    if path.suffix.lower() in _PICTURE_EXTENSIONS:
        return path.with_stem(path.stem + label)
    return path.with_name(path.name + label)
