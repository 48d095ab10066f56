"""Conversion, done by workers."""

from pathlib import Path
from typing import Any

from cl_ml_tools import pictures
from cl_ml_tools.common.compute_module import ComputeModule, ProgressCallback
from cl_ml_tools.common.schemas import Job
from cl_ml_tools.picture_options import pillow_name
from cl_ml_tools.plugins.image_conversion.schema import ImageConversionParams


class ImageConversionTask(ComputeModule[ImageConversionParams]):
    """Writes pictures in another format."""

    @property
    def task_type(self) -> str:
        """``image_conversion``."""
        return "image_conversion"

    def get_schema(self) -> type[ImageConversionParams]:
        """`ImageConversionParams`."""
        return ImageConversionParams

    async def execute(
        self, job: Job, params: ImageConversionParams, progress_callback: ProgressCallback | None = None
    ) -> dict[str, Any]:
        """Write each input in the format asked for.

        Returns:
            As `task_output`: what `cl_ml_tools.pictures.process_each` returns, and ``format`` and
            ``quality`` as they were asked for.

        Raises:
            cl_ml_tools.errors.BadInputError: no input, or with ``strict`` not every one, can be processed.
        """
        sources, targets = pictures.paths_of(params)
        names = pictures.OutputNames(targets)
        how = pictures.Encoding(
            pictures.FORMATS[pillow_name(params.format)],
            params.quality,
            params.lossless,
            params.progressive,
            params.background,
        )

        def convert(position: int, source: Path) -> list[pictures.Report]:
            with pictures.open_picture(source) as picture:
                return [pictures.convert(picture, targets[position], how, names, is_format_asked_for=True)]

        output = pictures.process_each(
            sources, convert, strict=params.strict, progress_callback=progress_callback
        )
        return {"status": "ok", "task_output": {**output, "format": params.format, "quality": params.quality}}
