"""The 0.2.0 package as its README shows it: the SQLite repository, and a worker that asks once a second when idle.

Runs by itself (``python -S``, with that release alone on its path): the packages have one name. The repository is read
from that README, which lies in tests/contract.

    python -S release_0_2_0.py produce|work <database>
"""

import asyncio
import importlib
import os
import re
import sys
import uuid
from pathlib import Path
from typing import Any

from cl_ml_tools.common.compute_module import ComputeModule
from cl_ml_tools.common.schemas import BaseJobParams, Job
from cl_ml_tools.worker import Worker

ROOT = Path(__file__).parents[2]
# Behind that release: nothing else of this repository is to be seen.
sys.path += [str(Path(__file__).parent), str(ROOT / "benchmarks" / "noop_plugin")]
_tell_start: Any = importlib.import_module("started").tell_start
_serve: Any = importlib.import_module("serving").serve


class _Noop(ComputeModule):
    @property
    def task_type(self) -> str:
        return "noop"

    def get_schema(self) -> type[BaseJobParams]:
        return BaseJobParams

    async def execute(self, job: Job, params: Any, progress_callback: Any = None) -> dict[str, Any]:
        _tell_start()
        if progress_callback:
            progress_callback(50)
        return {"status": "ok", "task_output": {}}


def _repository(database: str) -> Any:
    readme = (ROOT / "tests" / "contract" / "README-0.2.0.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names: dict[str, Any] = {}
    exec(next(block for block in blocks if "class SQLiteJobRepository:" in block), names)
    return names["SQLiteJobRepository"](database)


def _add(repository: Any) -> None:
    repository.add_job(
        Job(job_id=str(uuid.uuid4()), task_type="noop", params={"input_paths": [], "output_paths": []})
    )


async def _work(repository: Any, counted: Path) -> None:
    """The README's loop, and a count of what is done for the benchmark."""
    done = 0
    # In place: whoever reads meanwhile must not find it empty.
    file = os.open(counted, os.O_CREAT | os.O_WRONLY)
    os.pwrite(file, done.to_bytes(8), 0)
    worker = Worker(repository, {"noop": _Noop()})
    while True:
        if not await worker.run_once():
            await asyncio.sleep(1.0)
            continue
        done += 1
        os.pwrite(file, done.to_bytes(8), 0)


def main() -> None:
    act, database = sys.argv[1:]
    repository = _repository(database)
    if act == "work":
        asyncio.run(_work(repository, Path(f"{database}.done-{os.getpid()}")))
    else:
        _serve(lambda: _add(repository))


if __name__ == "__main__":
    main()
