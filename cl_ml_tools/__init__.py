"""Media and ML plugins as Celery tasks, with a record of every job."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from cl_ml_tools.common.compute_module import ComputeModule
from cl_ml_tools.common.file_storage import FileStorage
from cl_ml_tools.common.job_repository import JobRepository
from cl_ml_tools.common.schemas import BaseJobParams, Job

if TYPE_CHECKING:
    from celery import Celery

    celery: Celery

__version__ = version("cl_ml_tools")

__all__ = ["BaseJobParams", "ComputeModule", "FileStorage", "Job", "JobRepository", "__version__"]


def __getattr__(name: str) -> Any:
    # `celery -A cl_ml_tools` looks for this attribute; only then is Celery imported.
    if name == "celery":
        from cl_ml_tools.app import create_celery_app

        globals()["celery"] = create_celery_app()
        return globals()["celery"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
