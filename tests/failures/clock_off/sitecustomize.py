"""Lets a Python process see another time of day, as a host with a wrong clock does. Imported at its start."""

import os
import time

_offset = float(os.environ["CLOCK_OFF_SECONDS"])
_time, _time_ns = time.time, time.time_ns

time.time = lambda: _time() + _offset
time.time_ns = lambda: _time_ns() + int(_offset * 1e9)
