"""Resizing, done by workers."""

from typing import Any

from cl_ml_tools import pictures
from cl_ml_tools.common.compute_module import ComputeModule, ProgressCallback
from cl_ml_tools.common.schemas import Job
from cl_ml_tools.plugins.image_resize.schema import ImageResizeParams


class ImageResizeTask(ComputeModule[ImageResizeParams]):
    """Gives pictures another size, in the format that they have."""

    @property
    def task_type(self) -> str:
        """``image_resize``."""
        return "image_resize"

    def get_schema(self) -> type[ImageResizeParams]:
        """`ImageResizeParams`."""
        return ImageResizeParams

    async def execute(
        self, job: Job, params: ImageResizeParams, progress_callback: ProgressCallback | None = None
    ) -> dict[str, Any]:
        """Write each input at its new size.

        Returns:
            As `task_output`: ``processed_files``, the outputs' paths, and ``dimensions``, the first
            output's ``width`` and ``height``.

        Raises:
            cl_ml_tools.errors.BadInputError: an input is no picture that can be processed.
        """
        sizes = []
        pairs = pictures.path_pairs(params)
        for done, (source, target) in enumerate(pairs, start=1):
            picture = pictures.open_picture(source)
            image = pictures.resized(picture, params.width, params.height, fit=params.maintain_aspect_ratio)
            pictures.save_picture(image, target, picture.format)
            sizes.append({"width": image.width, "height": image.height})
            if progress_callback is not None:
                progress_callback(done * 100 // len(pairs))
        output = {"processed_files": [str(target) for _, target in pairs], "dimensions": sizes[0]}
        return {"status": "ok", "task_output": output}
