"""Several inputs in one job, each with an outcome of its own."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cl_ml_tools.common.compute_module import ProgressCallback
from cl_ml_tools.common.schemas import BaseJobParams
from cl_ml_tools.errors import BadInputError
from cl_ml_tools.file_names import distinct_name
from cl_ml_tools.pictures.formats import named_for

logger = logging.getLogger(__name__)

Report = dict[str, Any]


class OutputNames:
    """The names of a job's outputs: no two are alike, and each says what is in its file.

    Args:
        planned: the paths that the job names.
    """

    def __init__(self, planned: Iterable[Path]) -> None:
        self._planned = set(planned)
        self._taken: set[Path] = set()

    def claim(self, path: Path, extension: str | None = None) -> Path:
        """The path under which an output is to be written.

        Args:
            path: the one that is planned.
            extension: that of the real format, with its dot; None leaves the name as it is.
        """
        wanted = path if extension is None else named_for(path, extension)
        taken = {
            other.name for other in (self._planned - {path}) | self._taken if other.parent == path.parent
        }
        claimed = wanted.with_name(distinct_name(wanted.name, taken))
        self._taken.add(claimed)
        return claimed


def process_each(
    sources: Iterable[Path],
    work: Callable[[int, Path], list[Report]],
    *,
    strict: bool,
    progress_callback: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Do the work on each input; one that is bad does not stop the others.

    Args:
        sources: the inputs, one or more.
        work: takes an input's position and path; returns a report of each file that it wrote, with ``output_path``.
        strict: whether one bad input is the end of the job.
        progress_callback: is told after each input.

    Returns:
        ``processed_files``, the paths that were written; ``files``, the reports, and for an input that is bad
        its ``input_path`` and ``error``; ``partly_failed``, whether there is one.

    Raises:
        BadInputError: no input could be processed, or with ``strict`` not all could.
    """
    inputs = list(sources)
    files: list[Report] = []
    errors: list[BadInputError] = []
    for position, source in enumerate(inputs):
        try:
            files += work(position, source)
        except BadInputError as error:
            if strict or len(inputs) == 1:
                raise
            logger.info("%s", error)
            errors.append(error)
            files.append({"input_path": str(source), "error": str(error)})
        if progress_callback is not None:
            progress_callback((position + 1) * 100 // len(inputs))
    if errors and len(errors) == len(inputs):
        raise BadInputError(
            f"None of the {len(inputs)} files can be processed. {' '.join(map(_sentence, errors))}"
        )
    return {
        "processed_files": [entry["output_path"] for entry in files if "output_path" in entry],
        "files": files,
        "partly_failed": bool(errors),
    }


def paths_of(params: BaseJobParams, *, needs_outputs: bool = True) -> tuple[list[Path], list[Path]]:
    """The job's inputs and outputs, each at least one.

    Args:
        params: the job's parameters.
        needs_outputs: whether a job without outputs is of no use.

    Raises:
        BadInputError: it has none.
    """
    if not params.input_paths or (needs_outputs and not params.output_paths):
        raise BadInputError(
            f"The job has {len(params.input_paths)} inputs and {len(params.output_paths)} outputs. "
            f"Submit it with at least one of each."
        )
    return list(map(Path, params.input_paths)), list(map(Path, params.output_paths))


def _sentence(error: BadInputError) -> str:
    text = str(error)
    return text if text.endswith(".") else f"{text}."
