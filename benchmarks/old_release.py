"""0.2.0 from the package index, apart from this package: they have one name."""

import hashlib
import os
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis

from benchmarks.systems import OLD, PROGRAMS, System


@dataclass
class Release020(System):
    """0.2.0 with its README's repository."""

    folder: Path = field(default_factory=Path)
    database: Path = field(default_factory=Path)
    total: int = 0

    def producer_command(self) -> list[str]:
        """See `System`."""
        return self._command("produce")

    def worker_commands(self, concurrency: int) -> list[list[str]]:
        """See `System`. Its worker is one process that runs one job after the other."""
        return [self._command("work")] * concurrency

    def variables(self) -> dict[str, str]:
        """See `System`."""
        return {**os.environ, "PYTHONPATH": str(self.folder)}

    def _command(self, act: str) -> list[str]:
        # -S: without the site directory, where this package is.
        return [sys.executable, "-S", str(PROGRAMS / "release_0_2_0.py"), act, str(self.database)]

    def reset(self, client: "Redis") -> None:
        """See `System`."""
        for path in self._counts():
            path.unlink()
        with sqlite3.connect(self.database, timeout=30) as connection:
            connection.execute("DELETE FROM jobs")

    def left(self, client: "Redis") -> int:
        """See `System`. While workers run they are asked, not the database: a reader waits there for all of them."""
        if counts := self._counts():
            return self.total - sum(int.from_bytes(path.read_bytes()) for path in counts)
        with sqlite3.connect(self.database, timeout=30) as connection:
            (self.total,) = connection.execute("SELECT count(*) FROM jobs").fetchone()
        return self.total

    def _counts(self) -> list[Path]:
        """One file for each worker, which it keeps."""
        return list(self.database.parent.glob(f"{self.database.name}.done-*"))


def release_0_2_0(folder: Path) -> System:
    """0.2.0, installed once below the temporary directory, with its database in ``folder``.

    Raises:
        subprocess.CalledProcessError: it cannot be installed; its output says why.
    """
    requirement = "cl_ml_tools==0.2.0"
    version = hashlib.sha256(sys.version.encode()).hexdigest()[:8]
    installed = Path(tempfile.gettempdir()) / f"cl_ml_tools-benchmark-0.2.0-{version}"
    if not installed.exists():
        partial = Path(tempfile.mkdtemp())
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(partial), requirement]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        partial.replace(installed)
    # Its fetch looks at all queued jobs, without an index: thousands take minutes.
    return Release020(OLD, "", "", {}, most=1000, folder=installed, database=folder / "jobs.db")
