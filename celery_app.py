"""The worker: ``celery -A celery_app worker``."""

from cl_ml_tools.app import create_celery_app

app = create_celery_app()
