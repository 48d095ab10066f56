"""The team's Celery app: its own tasks, and the jobs of cl_ml_tools."""

import os

from celery import Celery

from cl_ml_tools.celery_bridge import install
from cl_ml_tools.stores.local_files import LocalFileStorage
from cl_ml_tools.stores.redis_jobs import RedisJobStore

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")

app = Celery("shop", broker=REDIS_URL)


@app.task(name="shop.thank")  # type: ignore[untyped-decorator]  # Celery has no types
def thank(customer: str) -> None:
    print(f"Thank you, {customer}")


storage = LocalFileStorage(os.environ.get("MEDIA_DIR", "media"), max_file_bytes=50_000_000)
repository = install(app, RedisJobStore(REDIS_URL, prefix="shop"), storage=storage)
