"""Several pictures in one job, and the way from an upload to its outputs."""

import asyncio
import importlib
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from picture_jobs import run
from picture_kinds import KINDS, image, scene
from PIL import Image
from plain_implementations import MemoryRepository
from pydantic import ValidationError

from cl_ml_tools import BaseJobParams, ComputeModule, Job
from cl_ml_tools.errors import BadInputError, JobStopped
from cl_ml_tools.execution.limits import retry_for
from cl_ml_tools.master import create_master_router
from cl_ml_tools.registry import load_tasks
from cl_ml_tools.stores.local_files import LocalFileStorage
from cl_ml_tools.testing import check_plugin

FORMS: dict[str, dict[str, Any]] = {
    "image_resize": {"width": 8, "height": 6},
    "image_conversion": {"format": "webp"},
    "image_thumbnail": {"sizes": [16, 8]},
    "image_metadata": {},
    "image_hash": {},
    "image_watermark": {"watermark_text": "mine"},
    "contact_sheet": {},
}
OUTPUTS = {
    "image_resize": ["resized_cat.png"],
    "image_conversion": ["converted_cat.webp"],
    "image_thumbnail": ["thumbnail_cat_16.jpg", "thumbnail_cat_8.jpg"],
    "image_metadata": ["metadata_cat.json"],
    "image_hash": ["hash_cat.json"],
    "image_watermark": ["watermarked_cat.png"],
    "contact_sheet": ["contact_sheet.jpg"],
}


@pytest.fixture(params=FORMS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def task(name: str) -> ComputeModule[Any]:
    return load_tasks()[name]


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    image(scene(), "RGB").save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    return tmp_path / "bad.png"


def outputs_for(task: ComputeModule[Any], inputs: list[Path], folder: Path) -> list[Path]:
    count = 1 if task.task_type == "contact_sheet" else len(inputs)
    folder.mkdir(exist_ok=True)
    return [folder / f"{number}-{path.name}" for number, path in enumerate(inputs)][:count]


@pytest.mark.parametrize("kind", KINDS)
def test_every_plugin_takes_every_kind_of_picture(
    kind: str, name: str, task: ComputeModule[Any], tmp_path: Path
) -> None:
    source = tmp_path / f"source{KINDS[kind].extension}"
    KINDS[kind].write(source)
    output = run(task, source, outputs_for(task, [source], tmp_path / "out"), **FORMS[name])
    assert not output["partly_failed"]
    assert all(Path(path).is_file() for path in output["processed_files"])


# --- several files


def test_progress_is_told_after_each_file(
    name: str, task: ComputeModule[Any], cat: Path, tmp_path: Path
) -> None:
    reported: list[int] = []
    outputs = outputs_for(task, [cat] * 4, tmp_path / "out")
    run(task, [cat] * 4, outputs, reported.append, **FORMS[name])
    assert reported == [25, 50, 75, 100]


def test_one_bad_file_does_not_lose_the_others(
    name: str, task: ComputeModule[Any], cat: Path, bad: Path, tmp_path: Path
) -> None:
    inputs = [cat, bad, cat]
    output = run(task, inputs, outputs_for(task, inputs, tmp_path / "out"), **FORMS[name])
    assert output["partly_failed"] is True
    assert all(Path(path).is_file() for path in output["processed_files"])
    (failed,) = [entry for entry in output["files"] if "error" in entry]
    assert failed["input_path"] == str(bad)
    assert failed["error"].startswith("bad.png is no picture in a format that is read")
    worked = {entry["input_path"] for entry in output["files"] if "error" not in entry}
    assert worked - {None} == {str(cat)}
    assert "1-bad" not in " ".join(output["processed_files"])


def test_when_asked_to_be_strict_one_bad_file_is_the_end(
    name: str, task: ComputeModule[Any], cat: Path, bad: Path, tmp_path: Path
) -> None:
    inputs = [cat, bad, cat]
    with pytest.raises(BadInputError, match=r"^bad\.png "):
        run(task, inputs, outputs_for(task, inputs, tmp_path / "out"), strict=True, **FORMS[name])


def test_a_job_of_which_nothing_worked_is_an_error_that_names_all(
    name: str, task: ComputeModule[Any], bad: Path, tmp_path: Path
) -> None:
    (tmp_path / "worse.gif").write_bytes(b"GIF89a")
    inputs = [bad, tmp_path / "worse.gif"]
    with pytest.raises(
        BadInputError, match=r"^None of the 2 files can be processed\. bad\.png .*worse\.gif "
    ):
        run(task, inputs, outputs_for(task, inputs, tmp_path / "out"), **FORMS[name])
    with pytest.raises(BadInputError, match=r"^bad\.png "):
        run(task, [bad], outputs_for(task, [bad], tmp_path / "out"), **FORMS[name])


def test_a_job_without_files_is_bad_input(name: str, task: ComputeModule[Any]) -> None:
    with pytest.raises(BadInputError, match="The job has 0 inputs and 0 outputs"):
        run(task, [], [], **FORMS[name])


def test_a_file_that_is_gone_is_the_systems_error(
    name: str, task: ComputeModule[Any], cat: Path, tmp_path: Path
) -> None:
    inputs = [cat, tmp_path / "gone.png"]
    with pytest.raises(FileNotFoundError):
        run(task, inputs, outputs_for(task, inputs, tmp_path / "out"), **FORMS[name])


def test_a_cancel_that_comes_between_two_files_is_obeyed(
    name: str, task: ComputeModule[Any], cat: Path, bad: Path, tmp_path: Path
) -> None:
    def stop(percent: int) -> None:
        raise JobStopped

    inputs = [bad, cat]
    with pytest.raises(JobStopped):
        run(task, inputs, outputs_for(task, inputs, tmp_path / "out"), stop, **FORMS[name])


# --- how many outputs


def test_the_rule_of_0_2_0_stays_for_who_does_not_change_it() -> None:
    with pytest.raises(ValidationError, match="must match that of input_paths: 1 given for 2"):
        BaseJobParams(input_paths=["/a", "/b"], output_paths=["/c"])
    assert BaseJobParams(input_paths=["/a"]).output_paths == []


def test_a_plugin_may_make_one_output_of_many_inputs() -> None:
    class Joined(BaseJobParams):
        def expected_output_count(self) -> int:
            return 1

    assert Joined(input_paths=["/a", "/b"], output_paths=["/c"]).output_paths == ["/c"]
    with pytest.raises(ValidationError, match="The number of output_paths must be 1: 2 given for 3"):
        Joined(input_paths=["/a", "/b", "/c"], output_paths=["/d", "/e"])


# --- from upload to output


def uploaded(
    name: str, form: dict[str, Any], uploads: list[tuple[str, Path]], folder: Path
) -> tuple[MemoryRepository, LocalFileStorage, Any]:
    repository, storage = MemoryRepository(), LocalFileStorage(folder / "media")
    app = FastAPI()
    app.include_router(create_master_router(repository, storage, lambda: None), prefix="/api")
    files = [("file", (upload, path.read_bytes())) for upload, path in uploads]
    with TestClient(app) as client:
        answer = client.post(f"/api/jobs/{name}", data=form, files=files)
    return repository, storage, answer


def test_what_is_uploaded_can_be_done_and_comes_out_under_its_fixed_name(
    name: str, task: ComputeModule[Any], cat: Path, tmp_path: Path
) -> None:
    repository, storage, answer = uploaded(name, FORMS[name], [("cat.png", cat)], tmp_path)
    assert answer.json() == {"job_id": repository.only_job.job_id, "status": "queued"}
    params = task.get_schema().model_validate(repository.only_job.params)
    result = asyncio.run(task.execute(repository.only_job, params))
    done = [Path(path) for path in result["task_output"]["processed_files"]]
    assert done == [storage.get_output_path(repository.only_job.job_id) / output for output in OUTPUTS[name]]
    assert all(path.is_file() for path in done)


@pytest.mark.parametrize(
    ("name", "form", "upload", "output"),
    [
        ("image_resize", {"width": "8", "height": "6"}, "Ä b.PNG", "resized_Ä b.PNG"),
        ("image_resize", {"width": "8"}, "cat.jpg", "resized_cat.png"),
        ("image_resize", {"width": "8"}, "no-extension", "resized_no-extension.png"),
        ("image_conversion", {"format": "JPEG"}, "cat.png", "converted_cat.jpg"),
        ("image_conversion", {"format": "tiff", "quality": "1"}, "a.b.png", "converted_a.b.tiff"),
        ("image_conversion", {"format": "webp"}, "no-extension", "converted_no-extension.webp"),
        ("image_thumbnail", {"sizes": "32", "format": "Webp"}, "cat.jpg", "thumbnail_cat_32.webp"),
        ("image_watermark", {"watermark_text": "x"}, "cat.jpeg", "watermarked_cat.png"),
    ],
)
def test_an_outputs_name_is_made_of_the_uploads(
    name: str, form: dict[str, str], upload: str, output: str, cat: Path, tmp_path: Path
) -> None:
    repository, _, answer = uploaded(name, form, [(upload, cat)], tmp_path)
    assert answer.status_code == 200, answer.text
    task = load_tasks()[name]
    result = asyncio.run(
        task.execute(repository.only_job, task.get_schema().model_validate(repository.only_job.params))
    )
    (done,) = result["task_output"]["processed_files"]
    assert Path(done).name == output


def test_many_uploads_make_one_contact_sheet(cat: Path, tmp_path: Path) -> None:
    uploads = [(f"{number}.png", cat) for number in range(5)]
    repository, _, answer = uploaded("contact_sheet", {"columns": "5", "cell": "64"}, uploads, tmp_path)
    assert answer.status_code == 200, answer.text
    params = repository.only_job.params
    assert [Path(path).name for path in params["output_paths"]] == ["contact_sheet.jpg"]
    assert len(params["input_paths"]) == 5


def test_without_a_text_the_last_upload_is_the_watermark(cat: Path, tmp_path: Path) -> None:
    uploads = [("a.png", cat), ("b.png", cat), ("logo.png", cat)]
    repository, _, answer = uploaded("image_watermark", {"opacity": "1"}, uploads, tmp_path)
    assert answer.status_code == 200, answer.text
    names = [Path(path).name for path in repository.only_job.params["output_paths"]]
    assert names == ["watermarked_a.png", "watermarked_b.png"]
    _, _, answer = uploaded("image_watermark", {}, uploads[:1], tmp_path / "other")
    assert answer.status_code == 422
    assert "send the mark as a second file" in answer.json()["detail"][0]["msg"]


@pytest.mark.parametrize(
    ("name", "form", "field"),
    [
        ("image_resize", {}, None),
        ("image_resize", {"width": "x"}, "width"),
        ("image_conversion", {"format": "eps"}, "format"),
        ("image_thumbnail", {"sizes": ["5", "x"]}, "sizes"),
        ("image_thumbnail", {"sizes": "5,5000"}, "sizes"),
        ("image_metadata", {"colours": "17"}, "colours"),
        ("image_hash", {"algorithms": "md5"}, "algorithms"),
        ("image_hash", {"hash_size": "12"}, "hash_size"),
        ("image_watermark", {"watermark_text": "x", "position": "middle"}, "position"),
        ("image_watermark", {"watermark_text": "  "}, None),
        ("contact_sheet", {"background": "#12"}, "background"),
    ],
)
def test_a_form_that_cannot_be_is_refused_and_says_where(
    name: str, form: dict[str, Any], field: str | None, cat: Path, tmp_path: Path
) -> None:
    repository, _, answer = uploaded(name, form, [("cat.png", cat)], tmp_path)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][:2] == (["body", field] if field else ["body"])
    assert not repository.jobs


def test_each_plugin_has_a_readme_that_tells_all_its_fields(name: str, task: ComputeModule[Any]) -> None:
    package = importlib.import_module(f"cl_ml_tools.plugins.{name}")
    text = (Path(str(package.__file__)).parent / "README.md").read_text()
    fields = set(task.get_schema().model_fields) - {"input_paths", "output_paths"}
    assert [field for field in sorted(fields) if f"| `{field}`" not in text] == []
    assert f"POST /jobs/{name}" in text


def test_a_picture_keeps_its_pixels_where_only_its_copyright_is_asked_for(cat: Path) -> None:
    # Reports are read from the files: a task that told of another file than it wrote would be found here.
    with Image.open(cat) as file:
        assert file.size == (60, 40)


def test_bad_input_is_never_tried_again_even_where_a_plugin_asks_for_it(
    name: str, task: ComputeModule[Any], bad: Path, tmp_path: Path
) -> None:
    task.autoretry_for = (Exception,)
    with pytest.raises(BadInputError, match=r"^bad\.png ") as caught:
        run(task, bad, outputs_for(task, [bad], tmp_path / "out"), **FORMS[name])
    assert retry_for(task, Job(job_id="j", task_type=name, params={}), caught.value, "") is None


def test_each_plugin_keeps_the_rules_that_strangers_plugins_are_checked_for(
    name: str, task: ComputeModule[Any], cat: Path, tmp_path: Path
) -> None:
    if name == "image_thumbnail":
        pytest.skip("its outputs are as many as its sizes, beside the one that the job names")
    paths = {"input_paths": [str(cat)], "output_paths": [str(tmp_path / OUTPUTS[name][0])]}
    assert check_plugin(task, {**FORMS[name], **paths}).status == "completed"
