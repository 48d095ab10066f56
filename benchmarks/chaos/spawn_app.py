"""An app whose prefork pool starts fresh interpreters."""

from cl_ml_tools.app import create_celery_app

app = create_celery_app()
app.conf.worker_pool_start_method = "spawn"
