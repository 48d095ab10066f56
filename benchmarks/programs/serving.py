"""The producers' side of the pipe to a benchmark. The standard library only: 0.2.0 has nothing else beside it."""

import json
import sys
import time
from collections.abc import Callable


def serve(add_one: Callable[[], object], add_many: Callable[[int], object] | None = None) -> None:
    """Answer lines ``one <count>`` and ``many <count>`` with what that took, until the pipe ends.

    Args:
        add_one: submits one job.
        add_many: submits so many in bulk.
    """
    print("ready", flush=True)
    for line in sys.stdin:
        word, count = line.split()
        cpu, begin = time.process_time(), time.monotonic()
        if word == "many" and add_many is not None:
            add_many(int(count))
        else:
            for _ in range(int(count)):
                add_one()
        took = {"seconds": time.monotonic() - begin, "cpu_seconds": time.process_time() - cpu}
        # By the clock that all processes of a machine share.
        print(json.dumps({"begun": begin, **took}), flush=True)
