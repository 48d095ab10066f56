"""An installation to play with on this machine: what ``celery ml demo`` and ``celery ml up`` do."""

from cl_ml_tools.demo.running import run_demo, run_stack

__all__ = ["run_demo", "run_stack"]
