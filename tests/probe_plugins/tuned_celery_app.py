"""A user's own ``celery_app.py`` that overrides what `create_celery_app` has set, as two variables say in JSON."""

import json
import os

from cl_ml_tools.app import create_celery_app

app = create_celery_app()
app.conf.update(json.loads(os.environ.get("TUNED_CONFIGURATION", "{}")))
options = json.loads(os.environ.get("TUNED_TRANSPORT_OPTIONS", "{}"))
app.conf.broker_transport_options = {**app.conf.broker_transport_options, **options}
