"""Conversion, done by workers."""

from typing import Any

from cl_ml_tools import pictures
from cl_ml_tools.common.compute_module import ComputeModule, ProgressCallback
from cl_ml_tools.common.schemas import Job
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
            As `task_output`: ``processed_files``, the outputs' paths, and ``format`` and ``quality`` as
            they were asked for.

        Raises:
            cl_ml_tools.errors.BadInputError: an input is no picture that can be processed.
        """
        encoding = "JPEG" if params.extension == "jpg" else params.format.upper()
        pairs = pictures.path_pairs(params)
        for done, (source, target) in enumerate(pairs, start=1):
            picture = pictures.open_picture(source)
            pictures.save_picture(picture.image, target, encoding, quality=params.quality)
            if progress_callback is not None:
                progress_callback(done * 100 // len(pairs))
        output = {
            "processed_files": [str(target) for _, target in pairs],
            "format": params.format,
            "quality": params.quality,
        }
        return {"status": "ok", "task_output": output}
