"""Resizing, done by workers."""

from pathlib import Path
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
            As `task_output`: what `cl_ml_tools.pictures.process_each` returns, and ``dimensions``, the first
            output's ``width`` and ``height``.

        Raises:
            cl_ml_tools.errors.BadInputError: no input, or with ``strict`` not every one, can be processed.
        """
        sources, targets = pictures.paths_of(params)
        names = pictures.OutputNames(targets)
        output = pictures.process_each(
            sources,
            lambda position, source: [_resize(source, targets[position], params, names)],
            strict=params.strict,
            progress_callback=progress_callback,
        )
        first = next(entry for entry in output["files"] if "output_path" in entry)
        output["dimensions"] = {"width": first["width"], "height": first["height"]}
        return {"status": "ok", "task_output": output}


def _resize(
    source: Path, target: Path, params: ImageResizeParams, names: pictures.OutputNames
) -> pictures.Report:
    def scale(size: tuple[int, int]) -> pictures.Scaling:
        return pictures.scaling_for(
            size, params.width, params.height, params.fit_mode, enlarge=params.enlarge
        )

    with pictures.open_picture(source) as picture:
        how = pictures.Encoding(
            picture.format, params.quality, params.lossless, params.progressive, params.background
        )
        return pictures.convert(picture, target, how, names, scale=scale)
