"""Sets the clock of a process wrong: ``CHAOS_CLOCK_OFFSET`` seconds ahead."""

import os
import time

_offset = float(os.environ.get("CHAOS_CLOCK_OFFSET", "0"))
if _offset:
    _really = time.time
    time.time = lambda: _really() + _offset
