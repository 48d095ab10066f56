"""Watermarks, put on by workers."""

from pathlib import Path
from typing import Any

from PIL import Image

from cl_ml_tools import pictures
from cl_ml_tools.common.compute_module import ComputeModule, ProgressCallback
from cl_ml_tools.common.schemas import Job
from cl_ml_tools.plugins.image_watermark.marks import put_on, text_mark
from cl_ml_tools.plugins.image_watermark.schema import ImageWatermarkParams


class ImageWatermarkTask(ComputeModule[ImageWatermarkParams]):
    """Puts a text or a picture on pictures."""

    @property
    def task_type(self) -> str:
        """``image_watermark``."""
        return "image_watermark"

    def get_schema(self) -> type[ImageWatermarkParams]:
        """`ImageWatermarkParams`."""
        return ImageWatermarkParams

    async def execute(
        self, job: Job, params: ImageWatermarkParams, progress_callback: ProgressCallback | None = None
    ) -> dict[str, Any]:
        """Write each input with the mark on it.

        Returns:
            As `task_output`: what `cl_ml_tools.pictures.process_each` returns.

        Raises:
            cl_ml_tools.errors.BadInputError: the mark is bad, or no input, or with ``strict`` not every one, can be
                processed.
        """
        sources, targets = pictures.paths_of(params)
        names = pictures.OutputNames(targets)
        mark = None if params.watermark_text is not None else _read_mark(sources.pop())

        def draw(position: int, source: Path) -> list[pictures.Report]:
            with pictures.open_picture(source) as picture:
                fitted: dict[tuple[int, int], Image.Image] = {}

                def change(image: Image.Image) -> Image.Image:
                    if image.size not in fitted:
                        fitted[image.size] = _fitted(mark, image.size, params)
                    coloured = pictures.in_colours(image, picture.notes)
                    margin = _margin(image.size, params)
                    return put_on(coloured, fitted[image.size], params.position, params.opacity, margin)

                how = pictures.Encoding(
                    picture.format,
                    params.quality,
                    progressive=params.progressive,
                    background=params.background,
                )
                return [pictures.convert(picture, targets[position], how, names, change=change)]

        output = pictures.process_each(
            sources, draw, strict=params.strict, progress_callback=progress_callback
        )
        return {"status": "ok", "task_output": output}


def _read_mark(path: Path) -> Image.Image:
    with pictures.open_picture(path) as picture:
        return pictures.in_colours(picture.first().upright(), picture.notes).convert("RGBA")


def _fitted(mark: Image.Image | None, size: tuple[int, int], params: ImageWatermarkParams) -> Image.Image:
    """The mark as large as it shall be on pictures of this size."""
    margin = _margin(size, params)
    width = max(1, min(round(size[0] * params.scale), size[0] - 2 * margin))
    height = max(1, size[1] - 2 * margin)
    if mark is None:
        mark = text_mark(params.watermark_text or "", (width, height), params.colour)
    # Where it would be too high, the height counts.
    fitting = pictures.scaling_for(mark.size, width, height, "fit", enlarge=True)
    return pictures.scaled(pictures.Frame(mark), fitting).image


def _margin(size: tuple[int, int], params: ImageWatermarkParams) -> int:
    return round(params.margin * min(size))
