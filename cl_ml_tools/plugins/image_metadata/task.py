"""Metadata, read by workers."""

from pathlib import Path
from typing import Any

from cl_ml_tools import pictures
from cl_ml_tools.common.compute_module import ComputeModule, ProgressCallback
from cl_ml_tools.common.schemas import Job
from cl_ml_tools.plugins.image_metadata.colours import dominant_colours, sample_size
from cl_ml_tools.plugins.image_metadata.exif import exif_as_json
from cl_ml_tools.plugins.image_metadata.schema import ImageMetadataParams


class ImageMetadataTask(ComputeModule[ImageMetadataParams]):
    """Tells what pictures are and what their files say about them."""

    @property
    def task_type(self) -> str:
        """``image_metadata``."""
        return "image_metadata"

    def get_schema(self) -> type[ImageMetadataParams]:
        """`ImageMetadataParams`."""
        return ImageMetadataParams

    async def execute(
        self, job: Job, params: ImageMetadataParams, progress_callback: ProgressCallback | None = None
    ) -> dict[str, Any]:
        """Describe each input, in `task_output` and, where the job names outputs, in a JSON file.

        Returns:
            As `task_output`: what `cl_ml_tools.pictures.process_each` returns; each report is the description.

        Raises:
            cl_ml_tools.errors.BadInputError: no input, or with ``strict`` not every one, can be processed.
        """
        sources, targets = pictures.paths_of(params, needs_outputs=False)
        names = pictures.OutputNames(targets)

        def describe(position: int, source: Path) -> list[pictures.Report]:
            description = _describe(source, params)
            if targets:
                path = names.claim(targets[position])
                pictures.write_json(description, path)
                description["output_path"] = str(path)
            return [{"input_path": str(source), **description}]

        output = pictures.process_each(
            sources, describe, strict=params.strict, progress_callback=progress_callback
        )
        return {"status": "ok", "task_output": output}


def _describe(source: Path, params: ImageMetadataParams) -> dict[str, Any]:
    with pictures.open_picture(source) as picture:
        width, height = picture.size
        told: dict[str, Any] = {
            "name": picture.name,
            "format": picture.format.name,
            "width": width,
            "height": height,
            "mode": picture.mode,
            "frames": picture.frame_count,
            "plays": picture.plays,
            "orientation": picture.stored_orientation,
            "has_alpha": picture.file.has_transparency_data,
            "dpi": _dpi(picture.file.info.get("dpi")),
            "icc_profile": pictures.profile_name(picture.profile) if picture.profile else None,
            "artist": picture.rights.artist or None,
            "copyright": picture.rights.copyright or None,
            "exif": picture.read_exif(lambda exif: exif_as_json(exif, gps=params.gps)) or {},
            **pictures.fingerprint(source),
        }
        side = sample_size(picture.size)
        sample = pictures.scaled_first(picture, pictures.scaling_for(picture.size, side, side, "fit"))
        told["dominant_colours"] = dominant_colours(
            pictures.in_colours(sample.image, pictures.Notes()), params.colours
        )
        return {**told, "warnings": list(picture.notes)}


def _dpi(value: Any) -> list[float] | None:
    try:
        return [round(float(side), 2) for side in value]
    except (TypeError, ValueError, ArithmeticError):
        return None
