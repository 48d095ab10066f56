"""What is loaded by importing what, each in an interpreter of its own."""

import subprocess
import sys

import pytest

HEAVY = ["celery", "kombu", "redis", "fastapi", "starlette", "PIL"]

MASTER = """
from pathlib import Path
from fastapi import FastAPI
from fastapi.testclient import TestClient
from cl_ml_tools.common.schemas import Job
from cl_ml_tools.master import create_master_router
from cl_ml_tools.stores.local_files import LocalFileStorage
import sys, tempfile

class Repository:
    def add_job(self, job, created_by=None, priority=None):
        return job.job_id

with tempfile.TemporaryDirectory() as directory:
    app = FastAPI()
    app.include_router(create_master_router(Repository(), LocalFileStorage(directory), lambda: None))
    client = TestClient(app)
    for task_type, form in (
        ("image_resize", {"width": 3, "height": 4}),
        ("image_conversion", {"format": "webp"}),
    ):
        answer = client.post(f"/jobs/{task_type}", data=form, files={"file": ("a.png", b"x")})
        assert answer.status_code == 200, answer.text
    assert client.get("/openapi.json").status_code == 200
"""


def loaded_by(source: str) -> set[str]:
    """The names of all modules that are loaded after running ``source``."""
    program = f"{source}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_package_loads_pydantic_at_most() -> None:
    assert not loaded_by("import cl_ml_tools").intersection(HEAVY)


@pytest.mark.parametrize(
    "source",
    [
        "import cl_ml_tools.plugins.image_resize.schema",
        "import cl_ml_tools.plugins.image_conversion.schema",
        "from cl_ml_tools.plugins.image_resize import ImageResizeParams",
        "from cl_ml_tools.plugins.image_conversion import ImageConversionParams",
        "from cl_ml_tools.registry import installed_route_names; assert installed_route_names()",
    ],
)
def test_a_schema_or_a_name_loads_nothing_heavy(source: str) -> None:
    assert not loaded_by(source).intersection(HEAVY)


@pytest.mark.parametrize("plugin", ["image_resize", "image_conversion"])
def test_routes_load_no_pillow_and_no_task(plugin: str) -> None:
    loaded = loaded_by(f"import cl_ml_tools.plugins.{plugin}.routes")
    assert "fastapi" in loaded
    assert "PIL" not in loaded
    assert f"cl_ml_tools.plugins.{plugin}.task" not in loaded


def test_a_task_loads_no_fastapi() -> None:
    loaded = loaded_by("from cl_ml_tools.registry import load_tasks\nload_tasks()")
    assert "PIL" in loaded
    assert not loaded.intersection(["fastapi", "starlette"])


def test_a_master_that_serves_all_routes_has_loaded_no_task() -> None:
    loaded = loaded_by(MASTER)
    plugins = {name for name in loaded if name.startswith("cl_ml_tools.plugins.")}
    assert "cl_ml_tools.plugins.image_resize.routes" in plugins
    assert not {name for name in plugins if name.endswith(".task")}
    assert "PIL" not in loaded
    assert "cl_ml_tools.pictures" not in loaded
