"""One job: validate, run under its lease, report, finish once."""

from cl_ml_tools.execution.event_loop import run_on_thread_loop
from cl_ml_tools.execution.finishing import finish, give_back, patiently, retry_later
from cl_ml_tools.execution.limits import RetryLater, TimeLimits, limits_of
from cl_ml_tools.execution.monitor import LeasedRun, RunMonitor, lease_clock, read_percent
from cl_ml_tools.execution.run import Execution

__all__ = [
    "Execution",
    "LeasedRun",
    "RetryLater",
    "RunMonitor",
    "TimeLimits",
    "finish",
    "give_back",
    "lease_clock",
    "limits_of",
    "patiently",
    "read_percent",
    "retry_later",
    "run_on_thread_loop",
]
