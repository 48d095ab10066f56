"""Hashes, computed by workers."""

from pathlib import Path
from typing import Any

from PIL import Image

from cl_ml_tools import pictures
from cl_ml_tools.common.compute_module import ComputeModule, ProgressCallback
from cl_ml_tools.common.schemas import Job
from cl_ml_tools.plugins.image_hash.hashes import HASHES
from cl_ml_tools.plugins.image_hash.schema import ImageHashParams


class ImageHashTask(ComputeModule[ImageHashParams]):
    """Computes fingerprints of pictures: of the file, and of how it looks."""

    @property
    def task_type(self) -> str:
        """``image_hash``."""
        return "image_hash"

    def get_schema(self) -> type[ImageHashParams]:
        """`ImageHashParams`."""
        return ImageHashParams

    async def execute(
        self, job: Job, params: ImageHashParams, progress_callback: ProgressCallback | None = None
    ) -> dict[str, Any]:
        """Compute the hashes of each input, into `task_output` and, where the job names outputs, a JSON file.

        Returns:
            As `task_output`: what `cl_ml_tools.pictures.process_each` returns; each report has ``sha256`` and
            ``hashes``, and ``hash_size`` beside them.

        Raises:
            cl_ml_tools.errors.BadInputError: no input, or with ``strict`` not every one, can be processed.
        """
        sources, targets = pictures.paths_of(params, needs_outputs=False)
        names = pictures.OutputNames(targets)

        def compute(position: int, source: Path) -> list[pictures.Report]:
            told = _hashes(source, params)
            if targets:
                path = names.claim(targets[position])
                pictures.write_json(told, path)
                told["output_path"] = str(path)
            return [{"input_path": str(source), **told}]

        output = pictures.process_each(
            sources, compute, strict=params.strict, progress_callback=progress_callback
        )
        return {"status": "ok", "task_output": {**output, "hash_size": params.hash_size}}


def _hashes(source: Path, params: ImageHashParams) -> dict[str, Any]:
    with pictures.open_picture(source) as picture:
        width, height = picture.size
        # All of it is decoded: what a fast, smaller decode gives would differ in a bit now and then.
        grey = _grey(picture.first().upright())
        return {
            "name": picture.name,
            "format": picture.format.name,
            "width": width,
            "height": height,
            "mode": picture.mode,
            "frames": picture.frame_count,
            **pictures.fingerprint(source),
            "hashes": {
                name: HASHES[name](grey, params.hash_size) for name in dict.fromkeys(params.algorithms)
            },
            "warnings": list(picture.notes),
        }


def _grey(image: Image.Image) -> Image.Image:
    """The picture in grey as it is seen: transparency is white."""
    image = pictures.flattened(image, "white")
    if image.mode in ("I", "F", "I;16", "LAB"):
        image = pictures.in_colours(image, pictures.Notes())
    return image.convert("L")
