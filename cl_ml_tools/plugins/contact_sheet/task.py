"""Contact sheets, made by workers."""

from pathlib import Path
from typing import Any

from PIL import Image

from cl_ml_tools import pictures
from cl_ml_tools.common.compute_module import ComputeModule, ProgressCallback
from cl_ml_tools.common.schemas import Job
from cl_ml_tools.picture_options import pillow_name
from cl_ml_tools.plugins.contact_sheet.schema import ContactSheetParams
from cl_ml_tools.plugins.contact_sheet.sheet import Layout, draw_sheet, layout_for


class ContactSheetTask(ComputeModule[ContactSheetParams]):
    """Puts many pictures on one sheet."""

    @property
    def task_type(self) -> str:
        """``contact_sheet``."""
        return "contact_sheet"

    def get_schema(self) -> type[ContactSheetParams]:
        """`ContactSheetParams`."""
        return ContactSheetParams

    async def execute(
        self, job: Job, params: ContactSheetParams, progress_callback: ProgressCallback | None = None
    ) -> dict[str, Any]:
        """Write one sheet of all inputs, in their order; one that is bad is left out.

        Returns:
            As `task_output`: what `cl_ml_tools.pictures.process_each` returns, with the sheet's report last, and
            ``columns``.

        Raises:
            cl_ml_tools.errors.BadInputError: no input, or with ``strict`` not every one, can be processed, or the
                sheet would be too large.
        """
        sources, (target, *_) = pictures.paths_of(params)
        how = pictures.Encoding(pictures.FORMATS[pillow_name(params.format)], params.quality)
        path = pictures.OutputNames([target]).claim(target, how.format.extension_for("RGB"))
        # Before any picture is read: a sheet that is too large is not worth the work.
        _checked_layout(len(sources), params, path)
        cells: list[Image.Image] = []
        labels: list[str] = []

        def shrink(position: int, source: Path) -> list[pictures.Report]:
            cell, warnings = _shrunk(source, params.cell)
            cells.append(cell)
            labels.append(source.name)
            return [{"input_path": str(source), "cell": len(cells) - 1, "warnings": warnings}]

        output = pictures.process_each(
            sources, shrink, strict=params.strict, progress_callback=progress_callback
        )
        layout = _checked_layout(len(cells), params, path)
        notes = pictures.Notes()
        pictures.save_picture(draw_sheet(layout, cells, labels, params.background), path, how, notes=notes)
        sheet = pictures.report(None, path, notes)
        output |= {
            "processed_files": [str(path)],
            "files": [*output["files"], sheet],
            "columns": layout.columns,
        }
        return {"status": "ok", "task_output": output}


def _checked_layout(count: int, params: ContactSheetParams, path: Path) -> Layout:
    layout = layout_for(count, params.columns, params.cell, params.gap, labels=params.labels)
    pictures.picture_limits().check(path.name, *layout.size)
    return layout


def _shrunk(source: Path, side: int) -> tuple[Image.Image, list[str]]:
    with pictures.open_picture(source) as picture:
        if picture.frame_count > 1:
            picture.notes.add(f"It shows the first of {picture.frame_count} frames.")
        frame = pictures.scaled_first(picture, pictures.scaling_for(picture.size, side, side, "fit"))
        return pictures.in_colours(frame.upright(), picture.notes), list(picture.notes)
