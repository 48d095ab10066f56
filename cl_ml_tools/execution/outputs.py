"""Outputs that are complete or absent: each attempt writes beside the real place, and moves at the end."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from cl_ml_tools.common.file_storage import ATTEMPT_PREFIX

logger = logging.getLogger(__name__)


class AttemptOutputs:
    """The output files of one attempt.

    Args:
        output_paths: where the job wants its outputs.
        token: the claim's token; makes the attempt's directories its own.

    Attributes:
        paths: where the plugin writes them instead, in the same order.
    """

    def __init__(self, output_paths: list[str], token: str) -> None:
        self._name = f"{ATTEMPT_PREFIX}{token}"
        self._folders: dict[Path, Path] = {}
        self.paths: list[str] = []
        for name in output_paths:
            path = Path(name)
            folder = self._folders.setdefault(path.parent, path.parent / self._name)
            self.paths.append(str(folder / path.name))

    def prepare(self) -> None:
        """Make the attempt's directories."""
        for folder in self._folders.values():
            folder.mkdir(parents=True, exist_ok=True)

    def commit(self) -> None:
        """Move all that the attempt wrote to the real places, file by file, replacing what is there."""
        for parent, folder in self._folders.items():
            _move_contents(folder, parent)

    def missing(self) -> list[str]:
        """Those of the output paths, once they are in their places, where nothing is, or a link, which no list has."""
        # By os.path, which raises nothing: the job is done.
        places = map(self.real, self.paths)
        return [place for place in places if os.path.islink(place) or not os.path.lexists(place)]  # noqa: PTH114

    def discard(self) -> None:
        """Remove what is left of the attempt; a failure is logged, the sweep takes it later."""
        for folder in self._folders.values():
            try:
                shutil.rmtree(folder)
            except FileNotFoundError:
                continue
            except OSError:
                logger.warning("could not remove %s", folder, exc_info=True)

    def real(self, value: Any) -> Any:
        """``value`` with every path of the attempt in it, however deep, turned to the real one."""
        if isinstance(value, str):
            # By the directory's name, which is unique: a plugin may have resolved the path, or cut it.
            return value.replace(f"{os.sep}{self._name}", "").replace(f"{self._name}{os.sep}", "")
        if isinstance(value, dict):
            return {self.real(key): self.real(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.real(item) for item in value]
        return value


def _move_contents(source: Path, target: Path) -> None:
    for entry in os.scandir(source):
        place = target / entry.name
        if entry.is_dir(follow_symlinks=False) and place.is_dir():
            _move_contents(Path(entry.path), place)
        else:
            os.replace(entry.path, place)  # noqa: PTH105 - scandir gives the path as text
