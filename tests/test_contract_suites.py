"""The suites that are shipped for authors, on our classes and on those of 0.2.0's README."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cl_ml_tools import BaseJobParams, ComputeModule, Job
from cl_ml_tools.common.compute_module import ProgressCallback
from cl_ml_tools.plugins.image_conversion import ImageConversionTask
from cl_ml_tools.plugins.image_resize import ImageResizeTask
from cl_ml_tools.stores.local_files import LocalFileStorage
from cl_ml_tools.testing import FileStorageContract, JobRepositoryContract, check_plugin, run_plugin

README = (Path(__file__).parent / "contract" / "README-0.2.0.md").read_text()


def readme_class(name: str) -> Any:
    """The class as the README has it."""
    blocks = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    (code,) = [block for block in blocks if f"class {name}" in block]
    scope: dict[str, Any] = {}
    exec(code, scope)
    return scope[name]


class TestOurRepository(JobRepositoryContract):
    """Also on RabbitMQ, with ``--broker rabbitmq``."""

    # Redis has ten levels: 10 and 9 share one.
    priorities = (5, 9, 0, 9, None, 1)


class TestReadmesRepository(JobRepositoryContract):
    # It shares one connection, on which one transaction is open at a time.
    is_shared_by_threads = False
    # It takes 0 for no priority.
    priorities = (5, 9, 9, None, 1)

    @pytest.fixture
    def repository(self, tmp_path: Path) -> Iterator[Any]:
        repository = readme_class("SQLiteJobRepository")(str(tmp_path / "jobs.db"))
        yield repository
        repository.conn.close()


class TestOurStorage(FileStorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> LocalFileStorage:
        return LocalFileStorage(tmp_path)


class TestReadmesStorage(FileStorageContract):
    makes_names_safe = False

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Any:
        return readme_class("LocalFileStorage")(str(tmp_path))


def picture_params(folder: Path, **params: Any) -> dict[str, Any]:
    Image.new("RGB", (40, 24), "navy").save(folder / "in.png")
    return {
        "input_paths": [str(folder / "in.png")],
        "output_paths": [str(folder / "out" / "out.png")],
        **params,
    }


def test_the_built_in_plugins_do_what_every_plugin_must(tmp_path: Path) -> None:
    plugins: list[tuple[ComputeModule[Any], dict[str, Any]]] = [
        (ImageResizeTask(), {"width": 8, "height": 8}),
        (ImageConversionTask(), {"format": "png"}),
    ]
    for number, (module, params) in enumerate(plugins):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert check_plugin(module, picture_params(folder, **params)).task_output is not None


class Copier(ComputeModule[BaseJobParams]):
    """Copies its input; its subclasses do each one thing wrong."""

    @property
    def task_type(self) -> str:
        return "copier"

    def get_schema(self) -> type[BaseJobParams]:
        return BaseJobParams

    async def execute(
        self, job: Job, params: BaseJobParams, progress_callback: ProgressCallback | None = None
    ) -> dict[str, Any]:
        assert progress_callback is not None
        self.work(Path(params.input_paths[0]), Path(params.output_paths[0]), progress_callback)
        return {"status": "ok", "task_output": {"file": params.output_paths[0]}}

    def work(self, source: Path, target: Path, report: ProgressCallback) -> None:
        report(10)
        target.write_bytes(source.read_bytes())
        report(90)


class WritesNothing(Copier):
    def work(self, source: Path, target: Path, report: ProgressCallback) -> None:
        report(10)


class ChangesItsInput(Copier):
    def work(self, source: Path, target: Path, report: ProgressCallback) -> None:
        super().work(source, target, report)
        source.write_bytes(b"changed")


class LeavesSomething(Copier):
    def work(self, source: Path, target: Path, report: ProgressCallback) -> None:
        super().work(source, target, report)
        target.with_name("scratch").touch()


class WritesMore(Copier):
    """Beside its output, and never over what is there."""

    def work(self, source: Path, target: Path, report: ProgressCallback) -> None:
        super().work(source, target, report)
        (target.parent / "tiles").mkdir()
        for name in ("report.txt", "tiles/0"):
            with (target.parent / name).open("xb") as file:
                file.write(b"more")


class GoesBack(Copier):
    def work(self, source: Path, target: Path, report: ProgressCallback) -> None:
        super().work(source, target, report)
        report(50)


class WorksOnce(Copier):
    def __init__(self) -> None:
        self.left = 1

    def work(self, source: Path, target: Path, report: ProgressCallback) -> None:
        self.left -= 1
        assert self.left >= 0, "a second job"
        super().work(source, target, report)


class HasAnotherName(Copier):
    @property
    def task_type(self) -> str:
        return "two words"


class ReturnsMore(Copier):
    async def execute(
        self, job: Job, params: BaseJobParams, progress_callback: ProgressCallback | None = None
    ) -> dict[str, Any]:
        return {**await super().execute(job, params, progress_callback), "output": {"size": 1}}


def copy_params(folder: Path) -> dict[str, Any]:
    (folder / "in").write_bytes(b"content")
    return {"input_paths": [str(folder / "in")], "output_paths": [str(folder / "out" / "copy")]}


def test_a_good_plugin_passes_and_its_run_is_told(tmp_path: Path) -> None:
    run = check_plugin(Copier(), copy_params(tmp_path))
    assert run.task_output == {"file": str(tmp_path / "out" / "copy")}
    assert run.progress == [10, 90]
    assert (tmp_path / "out" / "copy").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        (WritesNothing(), "there is no"),
        (ChangesItsInput(), "changed its input"),
        (LeavesSomething(), "beside its outputs"),
        (GoesBack(), "went back from 90 to 50"),
        (WorksOnce(), "a second job"),
        (HasAnotherName(), "1 to 64 of the characters"),
        (ReturnsMore(), "returned 'output', which nobody reads"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ComputeModule) else None,
)
def test_what_a_plugin_does_wrong_is_told(module: Copier, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_plugin(module, copy_params(tmp_path))


def test_a_plugin_that_writes_more_files_passes_when_that_is_said(tmp_path: Path) -> None:
    params = copy_params(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "from before").touch()
    check_plugin(WritesMore(), params, extra_outputs=True)
    left = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*"))
    assert left == ["copy", "from before", "report.txt", "tiles", "tiles/0"]
    assert (tmp_path / "out" / "tiles" / "0").read_bytes() == b"more"


def test_outputs_may_lie_one_below_the_other(tmp_path: Path) -> None:
    class CopiesTwice(Copier):
        async def execute(
            self, job: Job, params: BaseJobParams, progress_callback: ProgressCallback | None = None
        ) -> dict[str, Any]:
            Path(params.output_paths[1]).touch(exist_ok=False)
            return await super().execute(job, params, progress_callback)

    params = copy_params(tmp_path)
    paths = [*params["output_paths"], str(tmp_path / "out" / "below" / "copy")]
    check_plugin(CopiesTwice(), {"input_paths": params["input_paths"] * 2, "output_paths": paths})
    assert all(Path(path).exists() for path in paths)


def test_a_run_ends_as_a_workers_run_would(tmp_path: Path) -> None:
    class Retried(Copier):
        autoretry_for = (OSError,)

        def work(self, source: Path, target: Path, report: ProgressCallback) -> None:
            raise OSError("not now")

    params = copy_params(tmp_path)
    failed = asyncio.run(run_plugin(Retried(), params))
    assert (failed.status, failed.is_worth_retrying) == ("error", True)
    cancelled = asyncio.run(run_plugin(Copier(), params, cancel_at_report=2))
    assert cancelled.status == "cancelled"
    assert not (tmp_path / "out" / "copy").exists()
    invalid = asyncio.run(run_plugin(Copier(), {"input_paths": ["a"], "output_paths": ["b", "c"]}))
    assert "must match" in (invalid.error_message or "")


def test_the_suites_need_no_pytest(tmp_path: Path) -> None:
    sources = (Path(__file__).parents[1] / "cl_ml_tools" / "testing").glob("*.py")
    assert not any(re.search(r"^(import|from) pytest", path.read_text(), re.MULTILINE) for path in sources)
