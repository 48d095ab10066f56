"""One job: validate, run under its lease, report, finish once."""

from cl_ml_tools.execution.event_loop import run_on_thread_loop
from cl_ml_tools.execution.monitor import LeasedRun, RunMonitor, read_percent
from cl_ml_tools.execution.run import Execution

__all__ = ["Execution", "LeasedRun", "RunMonitor", "read_percent", "run_on_thread_loop"]
