"""From one file to another."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image

from cl_ml_tools.pictures.batches import OutputNames, Report
from cl_ml_tools.pictures.formats import nearest_format
from cl_ml_tools.pictures.modes import is_see_through
from cl_ml_tools.pictures.opening import Frame, Picture
from cl_ml_tools.pictures.reports import report
from cl_ml_tools.pictures.scaling import check_scaling, scaled, scaled_first
from cl_ml_tools.pictures.sizes import Scaling
from cl_ml_tools.pictures.writing import Encoding, save_frames

Scale = Callable[[tuple[int, int]], Scaling]
"""Tells how a frame of this upright size is scaled."""

Change = Callable[[Image.Image], Image.Image]
"""Gives the upright pixels of a frame another look."""


def convert(
    picture: Picture,
    target: Path,
    how: Encoding,
    names: OutputNames,
    *,
    scale: Scale | None = None,
    change: Change | None = None,
    is_format_asked_for: bool = False,
) -> Report:
    """Write an open picture to a file: all its frames where the format holds them, else the first.

    Args:
        picture: the source.
        target: the output's planned path; its extension becomes that of the real format.
        how: the format and its options.
        names: the names of the job's outputs.
        scale: gives the frames another size.
        change: is applied to each frame after that.
        is_format_asked_for: whether the format is the user's wish, to be refused when it cannot hold the
            picture. Else it is the source's own, and the nearest format that can hold the picture takes its place.

    Returns:
        A report of the file.

    Raises:
        BadInputError: the source is damaged or too large, or the format cannot hold it.
        OSError: the file cannot be written.
    """
    notes = picture.notes
    how = replace(how, is_photograph=picture.format.name == "JPEG")
    size = scale(picture.size).size if scale is not None else picture.size
    has_alpha, mode = False, ""
    if picture.frame_count > 1 and how.format.holds_frames:
        frames = _all_frames(picture, scale)
    else:
        if picture.frame_count > 1:
            notes.add(
                f"Only the first of {picture.frame_count} frames was kept: {how.format.name} holds one."
            )
        first = (
            picture.first() if scale is None else scaled_first(picture, scale(picture.size), loses=how.loses)
        )
        has_alpha = how.background is None and is_see_through(first.image)
        mode = first.image.mode
        frames = iter([first])
    if not is_format_asked_for:
        nearest = nearest_format(how.format, size, has_alpha=has_alpha)
        if nearest is not how.format:
            notes.add(f"It was written as {nearest.name}: {how.format.name} cannot hold it.")
        how = replace(how, format=nearest)
    if change is not None:
        frames = _changed(frames, change)
    path = names.claim(target, how.format.extension_for(mode))
    save_frames(frames, path, how, plays=picture.plays, rights=picture.rights, notes=notes)
    written = report(picture.path, path, notes)
    if how.format.holds_frames and written["frames"] < picture.frame_count:
        # Encoders of animations do that; the durations are summed.
        written["warnings"].append(
            f"{picture.frame_count} frames became {written['frames']}: "
            f"those that look like the one before are shown with it."
        )
    return written


def _all_frames(picture: Picture, scale: Scale | None) -> Iterator[Frame]:
    if scale is not None:
        check_scaling(picture, scale(picture.size), picture.frame_count)
    for frame in picture.frames():
        yield frame if scale is None else scaled(frame, scale(frame.size))


def _changed(frames: Iterator[Frame], change: Change) -> Iterator[Frame]:
    for frame in frames:
        yield Frame(change(frame.upright()), frame.duration_ms)
