"""The examples do what they say."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
from harness import ROOT, Environment, Process, free_port
from PIL import Image, ImageChops
from test_contract_0_2_0 import in_folder

from cl_ml_tools import Job
from cl_ml_tools.errors import BadInputError
from cl_ml_tools.stores.embedded_redis import EmbeddedRedis
from cl_ml_tools.stores.redis_jobs import RedisJobStore

EXAMPLES = ROOT / "examples"
QUEUES = "celery,cl_ml_tools.image_resize,cl_ml_tools.watermark"
ANN, BOB = ({"Authorization": f"Bearer {token}"} for token in ("anns-token", "bobs-token"))


@pytest.fixture(scope="session")
def watermark_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the watermark plugin, installed by pip as a distribution of its own."""
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(EXAMPLES / "watermark_plugin")], check=True)
    return site


# --- the plugin


@pytest.fixture
def watermark(
    watermark_site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., list[Path]]:
    """Run the plugin's task on pictures; returns its outputs."""
    monkeypatch.syspath_prepend(str(watermark_site))
    task = importlib.import_module("watermark_plugin.task").WatermarkTask()

    def run(
        *pictures: Path, text: str = "mine", reported: list[int] | None = None, **asked: Any
    ) -> list[Path]:
        outputs = [tmp_path / f"watermarked_{picture.name}" for picture in pictures]
        params = task.get_schema()(
            watermark_text=text,
            input_paths=[str(picture) for picture in pictures],
            output_paths=[str(output) for output in outputs],
            **asked,
        )
        job = Job(job_id="a", task_type=task.task_type, params=params.model_dump())
        execution = task.execute(job, params, [].append if reported is None else reported.append)
        with pytest.raises(StopIteration) as ended:
            execution.send(None)
        assert ended.value.value["task_output"] == {"processed_files": params.output_paths}
        return outputs

    return run


def saved(folder: Path, image: Image.Image, name: str = "cat.png") -> Path:
    image.save(folder / name)
    return folder / name


def changed(before: Path, after: Path) -> tuple[tuple[int, int, int, int], int]:
    """The box of what differs between two pictures, and by how much at most."""
    with Image.open(before) as one, Image.open(after) as other:
        difference = ImageChops.difference(one.convert("RGB"), other.convert("RGB")).convert("L")
    box, (_, most) = difference.getbbox(), difference.getextrema()
    assert box is not None, "nothing was written"
    return box, int(most)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("position", "across", "down"),
    [
        ("top-left", (0, 0.5), (0, 0.5)),
        ("top-right", (0.5, 1), (0, 0.5)),
        ("bottom-left", (0, 0.5), (0.5, 1)),
        ("bottom-right", (0.5, 1), (0.5, 1)),
        ("center", (0.25, 0.75), (0.25, 0.75)),
    ],
)
def test_the_text_stands_where_it_was_asked_for(
    position: str,
    across: tuple[float, float],
    down: tuple[float, float],
    watermark: Callable[..., list[Path]],
    tmp_path: Path,
) -> None:
    source = saved(tmp_path, Image.new("RGB", (200, 100), "grey"))
    (output,) = watermark(source, position=position)
    left, top, right, bottom = changed(source, output)[0]
    assert 200 * across[0] <= left < right <= 200 * across[1]
    assert 100 * down[0] <= top < bottom <= 100 * down[1]


def test_opacity_makes_it_stronger(watermark: Callable[..., list[Path]], tmp_path: Path) -> None:
    source = saved(tmp_path, Image.new("RGB", (400, 300), "black"))
    strengths = [changed(source, watermark(source, opacity=opacity)[0])[1] for opacity in (0.1, 0.5, 1)]
    assert strengths == pytest.approx([25, 127, 255], abs=3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("ground", ["black", "white"])
def test_pictures_of_every_kind_are_marked_and_keep_their_colours(
    mode: str, ground: str, watermark: Callable[..., list[Path]], tmp_path: Path
) -> None:
    if mode == "I;16":
        image = Image.new(mode, (400, 300), 0 if ground == "black" else 65535)
    else:
        image = Image.new("RGB", (400, 300), ground).convert(mode)
    source = saved(tmp_path, image, "cat.tiff" if mode == "CMYK" else "cat.png")
    (output,) = watermark(source, opacity=1)
    assert changed(source, output)[1] > 200
    with Image.open(output) as marked:
        assert marked.size == (400, 300)
        assert marked.mode == {"1": "L", "P": "RGB", "I;16": "L"}.get(mode, mode)


def test_what_is_transparent_stays_so(watermark: Callable[..., list[Path]], tmp_path: Path) -> None:
    for name, image in {
        "clear.png": Image.new("RGBA", (400, 300), (255, 0, 0, 0)),
        "palette.gif": Image.new("P", (400, 300), 0),
    }.items():
        if image.mode == "P":
            image.info["transparency"] = 0
        image.save(tmp_path / name)
        (output,) = watermark(tmp_path / name, opacity=1)
        with Image.open(output) as marked:
            alpha = marked.convert("RGBA").getchannel("A")
        assert alpha.getextrema() == (0, 255), name
        assert alpha.getpixel((2, 2)) == 0


def test_a_long_text_is_made_to_fit(watermark: Callable[..., list[Path]], tmp_path: Path) -> None:
    source = saved(tmp_path, Image.new("RGB", (600, 400)))
    (output,) = watermark(source, text="a text of some length, " * 3, opacity=1)
    left, _, right, _ = changed(source, output)[0]
    assert left >= 5
    assert right <= 595
    assert right - left > 300


def test_progress_goes_by_pictures(watermark: Callable[..., list[Path]], tmp_path: Path) -> None:
    sources = [saved(tmp_path, Image.new("L", (40, 40)), f"{number}.png") for number in range(4)]
    reported: list[int] = []
    watermark(*sources, reported=reported)
    assert reported == [25, 50, 75, 100]


def test_what_is_no_picture_is_told_by_name(watermark: Callable[..., list[Path]], tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_text("no picture")
    with pytest.raises(BadInputError, match=r"cat\.png is no picture"):
        watermark(tmp_path / "cat.png")


def test_its_routes_load_no_pillow(watermark_site: Path) -> None:
    program = "import sys, watermark_plugin.routes; print('PIL' in sys.modules)"
    path = {**os.environ, "PYTHONPATH": str(watermark_site)}
    said = subprocess.run(
        [sys.executable, "-c", program], env=path, capture_output=True, check=True, text=True
    )
    assert said.stdout == "False\n"


# --- the application


@pytest.fixture
def tcp_url(redis_server: EmbeddedRedis, store: RedisJobStore) -> Iterator[str]:
    """The empty server under the URL that Celery and redis-py share."""
    port = free_port()
    store.client.config_set("port", port)
    yield f"redis://127.0.0.1:{port}/0"
    store.client.config_set("port", 0)


@pytest.fixture
def shop(tcp_url: str, watermark_site: Path, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start a Python module in the minimal application's directory; all end with the test."""
    environment = Environment(
        {
            "PYTHONPATH": str(watermark_site),
            "REDIS_URL": tcp_url,
            "MEDIA_DIR": str(tmp_path / "media"),
            "TOKENS": "ann:anns-token,bob:bobs-token,eve:",
        },
        tmp_path,
    )
    started: list[Process] = []

    def start(*module: str) -> Process:
        command = in_folder(EXAMPLES / "minimal_app", sys.executable, "-m", *module)
        started.append(environment.process(command, {}))
        return started[-1]

    yield start
    for process in started:
        process.kill_group()


def picture(colour: str) -> bytes:
    buffer = BytesIO()
    Image.new("L", (60, 40), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_minimal_app_runs_its_own_tasks_and_its_users_jobs(shop: Callable[..., Process]) -> None:
    port = str(free_port())
    url = f"http://127.0.0.1:{port}"
    api = shop("uvicorn", "api:app", "--port", port)
    worker = shop("celery", "-A", "shop", "worker", "-Q", QUEUES, "-c", "1", "-l", "INFO", "--without-mingle")
    api.wait_for("Application startup complete")
    worker.wait_for("ready.")

    assert httpx2.post(f"{url}/thanks", headers=ANN).status_code == 202
    worker.wait_for("Thank you, ann")

    files = [("file", ("cat.png", picture(colour))) for colour in ("black", "white")]
    form = {"watermark_text": "ann", "position": "center", "opacity": "1"}
    answer = httpx2.post(f"{url}/api/jobs/watermark", headers=ANN, data=form, files=files)
    assert answer.status_code == 200, answer.text
    job_url = f"{url}/api/jobs/{answer.json()['job_id']}"
    with httpx2.stream("GET", f"{job_url}/events", headers=ANN) as events:
        changes = [json.loads(line[6:]) for line in events.iter_lines() if line.startswith("data: ")]
    assert (changes[-1]["status"], changes[-1]["progress"]) == ("completed", 100)
    outputs = [Path(path) for path in changes[-1]["task_output"]["processed_files"]]
    assert [path.name for path in outputs] == ["watermarked_cat.png", "watermarked_cat-2.png"]
    for path, ground in zip(outputs, ("black", "white"), strict=True):
        with Image.open(path) as image:
            assert image.mode == "L"
            assert image.tobytes() != Image.new("L", (60, 40), ground).tobytes()

    assert httpx2.get(job_url, headers=ANN).json()["status"] == "completed"
    assert httpx2.get(job_url, headers=BOB).status_code == 404
    assert httpx2.get(f"{job_url}/events", headers=BOB).status_code == 404


def test_the_minimal_app_knows_its_users_by_their_tokens_alone(shop: Callable[..., Process]) -> None:
    port = str(free_port())
    api = shop("uvicorn", "api:app", "--port", port).wait_for("Application startup complete")
    url = f"http://127.0.0.1:{port}/api/jobs"
    strangers: list[dict[str, str]] = [
        {},
        *({"Authorization": sent} for sent in ("Bearer x", "Bearer", "Bearer ann", "Basic anns-token")),
    ]
    for headers in strangers:
        answer = httpx2.post(f"{url}/watermark", headers=headers, data={"watermark_text": "x"})
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert httpx2.get(f"{url}/a", headers=headers).status_code == 401
    assert httpx2.get(f"{url}/a", headers=BOB).status_code == 404
    assert "Traceback" not in api.output
