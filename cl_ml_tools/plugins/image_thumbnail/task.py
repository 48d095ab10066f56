"""Thumbnails, made by workers."""

from pathlib import Path
from typing import Any

from PIL import Image

from cl_ml_tools import pictures
from cl_ml_tools.common.compute_module import ComputeModule, ProgressCallback
from cl_ml_tools.common.schemas import Job
from cl_ml_tools.picture_options import pillow_name
from cl_ml_tools.plugins.image_thumbnail.schema import ImageThumbnailParams

# A thumbnail that is made of another one is as good as one that is made of the picture, to the eye, when
# the other one is at least this much larger.
_REUSED_FROM = 2


class ImageThumbnailTask(ComputeModule[ImageThumbnailParams]):
    """Makes small versions of pictures, several sizes of one decode."""

    @property
    def task_type(self) -> str:
        """``image_thumbnail``."""
        return "image_thumbnail"

    def get_schema(self) -> type[ImageThumbnailParams]:
        """`ImageThumbnailParams`."""
        return ImageThumbnailParams

    async def execute(
        self, job: Job, params: ImageThumbnailParams, progress_callback: ProgressCallback | None = None
    ) -> dict[str, Any]:
        """Write each size of each input, beside the output that the job names, its size in its name.

        Returns:
            As `task_output`: what `cl_ml_tools.pictures.process_each` returns; each report has ``size``, as it was
            asked for.

        Raises:
            cl_ml_tools.errors.BadInputError: no input, or with ``strict`` not every one, can be processed.
        """
        sources, targets = pictures.paths_of(params)
        names = pictures.OutputNames(targets)
        output = pictures.process_each(
            sources,
            lambda position, source: _make_all(source, targets[position], params, names),
            strict=params.strict,
            progress_callback=progress_callback,
        )
        return {"status": "ok", "task_output": output}


def _make_all(
    source: Path, target: Path, params: ImageThumbnailParams, names: pictures.OutputNames
) -> list[pictures.Report]:
    with pictures.open_picture(source) as picture:
        if picture.frame_count > 1:
            picture.notes.add(f"It shows the first of {picture.frame_count} frames.")
        images = _scaled_to_all(picture, params)
        name = params.format or ("png" if _has_alpha(images, params) else "jpg")
        how = pictures.Encoding(
            pictures.FORMATS[pillow_name(name)], params.quality, background=params.background
        )
        reports = []
        for size in dict.fromkeys(params.sizes):
            path = names.claim(
                pictures.with_label(target, f"_{size}"), how.format.extension_for(images[size].mode)
            )
            notes = pictures.Notes(picture.notes)
            pictures.save_picture(images[size], path, how, rights=picture.rights, notes=notes)
            reports.append({**pictures.report(source, path, notes), "size": size})
        return reports


def _scaled_to_all(picture: pictures.Picture, params: ImageThumbnailParams) -> dict[int, Image.Image]:
    """The picture in each size, upright and in sRGB: the larger ones first, the smaller ones of them."""
    images: dict[int, Image.Image] = {}
    for size in sorted(set(params.sizes), reverse=True):
        scaling = pictures.scaling_for(picture.size, size, size, params.mode)
        if not images:
            frame = pictures.scaled_first(picture, scaling)
            images[size] = pictures.in_colours(frame.upright(), picture.notes)
            continue
        wanted = min(max(images), size * _REUSED_FROM)
        larger = images[min(other for other in images if other >= wanted)]
        # What the larger one has lost at its sides, this one loses too.
        whole = pictures.Scaling(scaling.size)
        images[size] = pictures.scaled(pictures.Frame(larger), whole).image
    return images


def _has_alpha(images: dict[int, Image.Image], params: ImageThumbnailParams) -> bool:
    return params.background is None and any(map(pictures.is_see_through, images.values()))
