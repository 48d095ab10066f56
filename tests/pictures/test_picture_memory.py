"""What bounds the memory of a worker that does pictures, as docs/pictures.md says it."""

import re
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from harness import Environment, Process, ended
from hostile_pictures import png

from cl_ml_tools.celery_bridge import CeleryJobRepository
from cl_ml_tools.common.schemas import Job, JobRecord

CONVERSION = ["-c", "1", "-Q", "cl_ml_tools.image_conversion"]
IN_WORDS = Path(__file__).parents[2] / "docs" / "pictures.md"


@pytest.fixture
def convert(repository: CeleryJobRepository, tmp_path: Path) -> Callable[[int], JobRecord]:
    """Have a worker convert a flat picture with this many pixels a side to AVIF, which takes most."""

    def do(side: int) -> JobRecord:
        job_id = str(uuid.uuid4())
        source = tmp_path / f"{job_id}.png"
        source.write_bytes(png(side, side, pixels=bytes(side * (3 * side + 1)), colour=2))
        asked = {"format": "avif", "input_paths": [str(source)], "output_paths": [f"{source}.avif"]}
        return ended(
            repository, repository.add_job(Job(job_id=job_id, task_type="image_conversion", params=asked))
        )

    return do


def test_a_worker_with_a_bounded_address_space_ends_the_job_and_lives_on(
    environment: Environment, convert: Callable[[int], JobRecord]
) -> None:
    (kilobytes,) = re.findall(r"ulimit -v (\d+)", IN_WORDS.read_text())
    celery = (
        f"{sys.executable} -m celery -A cl_ml_tools worker -n bounded@test {' '.join(CONVERSION)} -l INFO"
    )
    worker = environment.process(["sh", "-c", f"ulimit -v {kilobytes}; exec {celery}"], {})
    try:
        worker.wait_for("ready.")
        before = {child.pid for child in worker.children()}
        assert convert(100).status == "completed"
        large = convert(7000)
        assert (large.status, large.attempt) == ("error", 1)
        assert (large.error_message or "").startswith("MemoryError")
        assert convert(100).status == "completed"
        assert {child.pid for child in worker.children()} == before
        assert "WorkerLostError" not in worker.output
    finally:
        worker.kill_group()


def test_a_process_that_has_grown_is_replaced_after_its_job(
    start_worker: Callable[..., Process], convert: Callable[[int], JobRecord]
) -> None:
    worker = start_worker(*CONVERSION, "--max-memory-per-child", "300000")
    (first,) = (child.pid for child in worker.children())
    assert convert(100).status == "completed"
    assert psutil.pid_exists(first)
    assert convert(6000).status == "completed"
    assert convert(100).status == "completed"
    assert not psutil.pid_exists(first)
