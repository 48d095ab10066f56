"""Changes a Python process at its start, as its environment says."""

import os
import time

if "CLOCK_OFF_SECONDS" in os.environ:
    # It sees another time of day, as on a host with a wrong clock.
    _offset = float(os.environ["CLOCK_OFF_SECONDS"])
    _time, _time_ns = time.time, time.time_ns
    time.time = lambda: _time() + _offset
    time.time_ns = lambda: _time_ns() + int(_offset * 1e9)

if "CELERY_KEEPS_SECONDS" in os.environ:
    # Longer hard limits are not told to Celery.
    from cl_ml_tools.celery_bridge import keeper

    keeper.CELERY_KEEPS_SECONDS = float(os.environ["CELERY_KEEPS_SECONDS"])
