"""What is told of a file that was written."""

import json
from hashlib import file_digest
from pathlib import Path
from typing import Any

from PIL import Image

from cl_ml_tools.pictures.formats import FORMATS
from cl_ml_tools.pictures.notes import Notes


def fingerprint(path: Path) -> dict[str, Any]:
    """The file's ``bytes`` and ``sha256``."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": file_digest(file, "sha256").hexdigest()}


def write_json(told: dict[str, Any], path: Path) -> None:
    """Write what is told of a picture to a file of its own, in UTF-8."""
    path.write_text(json.dumps(told, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def report(source: Path | None, target: Path, notes: Notes) -> dict[str, Any]:
    """What is true of an output, read from its header.

    Args:
        source: the input that it was made of; None when it was made of all.
        target: the output.
        notes: what had to be given up.
    """
    with target.open("rb") as file, Image.open(file, formats=list(FORMATS)) as written:
        return {
            "input_path": None if source is None else str(source),
            "output_path": str(target),
            "width": written.width,
            "height": written.height,
            "format": str(written.format),
            "mode": written.mode,
            "frames": int(getattr(written, "n_frames", 1)),
            **fingerprint(target),
            "warnings": list(notes),
        }
