"""Watermarks, done by workers."""

from typing import Any

from cl_ml_tools import ComputeModule, Job, pictures
from cl_ml_tools.common.compute_module import ProgressCallback
from watermark_plugin.schema import WatermarkParams
from watermark_plugin.stamp import stamped


class WatermarkTask(ComputeModule[WatermarkParams]):
    @property
    def task_type(self) -> str:
        return "watermark"

    def get_schema(self) -> type[WatermarkParams]:
        return WatermarkParams

    async def execute(
        self, job: Job, params: WatermarkParams, progress_callback: ProgressCallback | None = None
    ) -> dict[str, Any]:
        sources, targets = pictures.paths_of(params)
        for done, (source, target) in enumerate(zip(sources, targets, strict=True), start=1):
            # What is no picture raises an error that names the file; it becomes the job's error.
            with pictures.open_picture(source) as picture:
                pixels = picture.first().upright()
                image = stamped(pixels, params.watermark_text, params.position, params.opacity)
                pictures.save_picture(image, target, pictures.Encoding(picture.format))
            if progress_callback is not None:
                progress_callback(done * 100 // len(sources))
        return {"status": "ok", "task_output": {"processed_files": params.output_paths}}
