"""A team's own Celery app, with the package installed on it; its workers take our queues only when ``-Q`` says so."""

import os

from celery import Celery

from cl_ml_tools.broker_urls import broker_url_for
from cl_ml_tools.celery_bridge import install
from cl_ml_tools.stores.redis_jobs import RedisJobStore

redis_url = os.environ["CL_ML_TOOLS_REDIS_URL"]
app = Celery("existing", broker=broker_url_for(redis_url))
repository = install(app, RedisJobStore(redis_url))
