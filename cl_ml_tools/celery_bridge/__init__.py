"""The bridge to Celery: a repository that sends, workers that run jobs as Celery tasks."""

from cl_ml_tools.celery_bridge.install import install
from cl_ml_tools.celery_bridge.paced_events import PacedEventsStep
from cl_ml_tools.celery_bridge.repository import CeleryJobRepository

__all__ = ["CeleryJobRepository", "PacedEventsStep", "install"]
