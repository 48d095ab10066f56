"""``celery -A celery_app ml jobs``, ``cancel`` and ``retry``."""

from cl_ml_tools.job_commands.commands import cancel, installation_behind, jobs, retry

__all__ = ["cancel", "installation_behind", "jobs", "retry"]
